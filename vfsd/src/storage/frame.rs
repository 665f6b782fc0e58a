//! Frames of a segment: `magic u32 | len u32 | crc32c u32 | body`, little endian; one frame is one batch of records.
//!
//! Invariants: a batch is one frame and the next one is written only after it was flushed, so an interrupted write
//! leaves at most one bad frame, at the end. The checksum covers the frame's place: bytes of a frame that lie somewhere
//! else (a user may store a log file in the tree) are not one. Zeros mean that nothing was written yet.

use crate::limits::LOG_FRAME_LEN_MAX;

/// Bytes before the body.
pub(super) const HEADER_LEN: usize = 12;
const MAGIC: [u8; 4] = *b"vLf1";

/// What stands at an offset of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FrameRead<'a> {
    /// A whole frame, and the offset after it.
    Whole { body: &'a [u8], end: usize },
    /// Nothing was written here.
    Empty,
    /// Something that is no whole frame.
    Bad { reason: String },
}

/// Room for the header, to which the body is appended before [`seal`].
pub(super) fn begin() -> Vec<u8> {
    vec![0; HEADER_LEN]
}

/// Fills in the header of `frame`, which will stand at `offset` of segment `segment`.
///
/// # Panics
/// If the body is empty or longer than [`LOG_FRAME_LEN_MAX`]: the writer splits batches before that.
pub(super) fn seal(frame: &mut [u8], segment: u64, offset: u64) {
    let body_len = frame.len() - HEADER_LEN;
    assert!(body_len > 0, "a frame holds at least one record");
    let len = u32::try_from(body_len).expect("bounded by LOG_FRAME_LEN_MAX, which fits");
    assert!(
        len <= LOG_FRAME_LEN_MAX,
        "a frame of {len} bytes is longer than {LOG_FRAME_LEN_MAX}"
    );
    let sum = checksum(segment, offset, &frame[HEADER_LEN..]);
    frame[0..4].copy_from_slice(&MAGIC);
    frame[4..8].copy_from_slice(&len.to_le_bytes());
    frame[8..12].copy_from_slice(&sum.to_le_bytes());
}

/// Reads what stands at `offset` in the bytes of segment `segment`.
pub(super) fn read_at(bytes: &[u8], segment: u64, offset: usize) -> FrameRead<'_> {
    let Some(header) = bytes.get(offset..offset + HEADER_LEN) else {
        let rest = bytes.get(offset..).unwrap_or_default();
        return if rest.iter().all(|&byte| byte == 0) {
            FrameRead::Empty
        } else {
            bad("the header is cut off")
        };
    };
    if header.iter().all(|&byte| byte == 0) {
        return FrameRead::Empty;
    }
    if header[0..4] != MAGIC {
        return bad("there is no frame mark");
    }
    let len = u32::from_le_bytes(header[4..8].try_into().expect("four bytes"));
    if len == 0 || len > LOG_FRAME_LEN_MAX {
        return bad(&format!(
            "its length {len} is not between 1 and {LOG_FRAME_LEN_MAX}"
        ));
    }
    let start = offset + HEADER_LEN;
    let end = start + len as usize;
    let Some(body) = bytes.get(start..end) else {
        return bad(&format!("its {len} bytes reach beyond the segment"));
    };
    let stored = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
    let computed = checksum(segment, offset as u64, body);
    if stored != computed {
        return bad(&format!(
            "the checksum is {stored:08x}, the bytes give {computed:08x}"
        ));
    }
    FrameRead::Whole { body, end }
}

/// Offset of the first whole frame at or after `from`.
pub(super) fn find_whole(bytes: &[u8], segment: u64, from: usize) -> Option<usize> {
    const STRIDE: usize = 4096;
    const ZEROS: [u8; STRIDE] = [0; STRIDE];
    let mut stride = from;
    while stride < bytes.len() {
        // A mark may begin at the end of a stride, so each is searched a little beyond its end.
        let end = bytes.len().min(stride + STRIDE + MAGIC.len() - 1);
        let part = &bytes[stride..end];
        // The unwritten rest of a segment is long: whole strides of zeros are skipped by one comparison.
        if part[..part.len().min(STRIDE)] != ZEROS[..part.len().min(STRIDE)] {
            let marks = part
                .windows(MAGIC.len())
                .enumerate()
                .filter(|(_, window)| *window == MAGIC);
            for (at, _) in marks {
                if matches!(
                    read_at(bytes, segment, stride + at),
                    FrameRead::Whole { .. }
                ) {
                    return Some(stride + at);
                }
            }
        }
        stride += STRIDE;
    }
    None
}

fn bad(reason: &str) -> FrameRead<'static> {
    FrameRead::Bad {
        reason: reason.to_owned(),
    }
}

fn checksum(segment: u64, offset: u64, body: &[u8]) -> u32 {
    let mut sum = crc32c::crc32c(&segment.to_le_bytes());
    sum = crc32c::crc32c_append(sum, &offset.to_le_bytes());
    sum = crc32c::crc32c_append(sum, &(body.len() as u64).to_le_bytes());
    crc32c::crc32c_append(sum, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_valid_only_at_its_own_place() {
        let mut frame = begin();
        frame.extend_from_slice(b"records");
        seal(&mut frame, 3, 0);
        assert_eq!(
            read_at(&frame, 3, 0),
            FrameRead::Whole {
                body: b"records",
                end: frame.len()
            }
        );
        assert!(matches!(read_at(&frame, 4, 0), FrameRead::Bad { .. }));
        let mut moved = vec![0; 16];
        moved.extend_from_slice(&frame);
        assert!(matches!(read_at(&moved, 3, 16), FrameRead::Bad { .. }));
        assert_eq!(find_whole(&moved, 3, 0), None);
    }

    #[test]
    fn zeros_are_empty_and_a_cut_header_is_bad() {
        assert_eq!(read_at(&[0; 64], 1, 8), FrameRead::Empty);
        assert_eq!(read_at(&[0; 8], 1, 0), FrameRead::Empty);
        assert!(matches!(read_at(b"vLf1", 1, 0), FrameRead::Bad { .. }));
    }
}
