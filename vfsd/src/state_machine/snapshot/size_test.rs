//! The parts of a manifest are no larger than `limits.rs` counts them, so that a tree that is full in every way fits a
//! snapshot.

use super::*;
use crate::limits::{
    ANSWER_IMAGE_BYTES_MAX, COMMAND_NAME_BYTES_MAX, DETAIL_OVERHEAD_BYTES, INODE_IMAGE_BYTES_MAX,
};
use crate::state_machine::command::Grant;
use crate::state_machine::content::Content;
use crate::state_machine::outcome::Done;

fn len(part: &impl Serialize) -> u64 {
    postcard::to_stdvec(part).unwrap().len() as u64
}

/// With the largest numbers that there are.
fn largest(kind: KindImage) -> InodeImage {
    let time = WallTime {
        secs: i64::MIN,
        nanos: u32::MAX,
    };
    InodeImage {
        number: InodeNo(u64::MAX),
        kind,
        mode: u32::MAX,
        uid: u32::MAX,
        gid: u32::MAX,
        times: [time; 4],
        revisions: [LogIndex(u64::MAX); 3],
        author: u32::MAX,
        xattrs: Vec::new(),
        names: Vec::new(),
    }
}

#[test]
fn an_inode_is_no_larger_than_it_counts() {
    let digest = BlobDigest::of(b"x");
    let author = Author {
        node: NodeId(u64::MAX),
        grant: Grant::Writer,
        uid: u32::MAX,
        gid: u32::MAX,
        pid: u32::MAX,
        comm: "c".repeat(COMMAND_NAME_BYTES_MAX),
    };
    let written = WrittenImage {
        inode: InodeNo(u64::MAX),
        author: u32::MAX,
        time: WallTime {
            secs: i64::MIN,
            nanos: u32::MAX,
        },
    };
    // A content above 64 KiB stands in the list of blobs too, and so do its last author and its writer in that of
    // authors.
    let blob = len(&largest(KindImage::Blob(digest))) + len(&digest);
    let content = KindImage::Regular(ContentImage::of(&Content::default()));
    for inode in [blob, len(&largest(content))] {
        let whole = inode + len(&written) + 2 * len(&author);
        assert!(whole <= INODE_IMAGE_BYTES_MAX, "{whole}");
    }
}

#[test]
fn names_attributes_and_pieces_are_no_larger_than_they_count() {
    let name = (InodeNo(u64::MAX), vec![b'n'; 255]);
    assert!(len(&name) <= 255 + DETAIL_OVERHEAD_BYTES);
    let attribute = ("n".repeat(255), vec![0_u8; 65_000]);
    assert!(len(&attribute) <= 255 + 65_000 + DETAIL_OVERHEAD_BYTES);
    let piece = (u32::MAX, vec![0_u8; 16_384]);
    assert!(len(&piece) <= 16_384 + DETAIL_OVERHEAD_BYTES);
}

#[test]
fn an_answer_is_no_larger_than_it_counts() {
    let done = Done::Inode {
        inode: InodeNo(u64::MAX),
        created: true,
    };
    let outcome: Outcome = Ok(done);
    let answer = (RequestNo(u64::MAX), LogIndex(u64::MAX), outcome);
    assert!(len(&answer) <= ANSWER_IMAGE_BYTES_MAX, "{}", len(&answer));
}
