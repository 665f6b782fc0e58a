//! The bytes of a regular file, as a persistent structure.
//!
//! Invariants: a clone is cheap and never changes; a small write copies only the chunks that it touches; a chunk is
//! never longer than [`CONTENT_CHUNK_BYTES`] and never reaches past the end of the file. What no chunk holds is zeros.

use std::sync::Arc;

use imbl::OrdMap;

use super::command::{ContentOp, ContentUpdate};
use super::fs_error::FsError;
use crate::limits::{CONTENT_BLOCK_BYTES, CONTENT_CHUNK_BYTES, FILE_BYTES_MAX};

const CHUNK: u64 = CONTENT_CHUNK_BYTES as u64;
const BLOCK: u64 = CONTENT_BLOCK_BYTES as u64;

/// The bytes of a regular file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    size: u64,
    chunks: OrdMap<u32, Arc<[u8]>>,
}

impl Content {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that chunks hold: what the file really takes.
    pub fn stored_bytes(&self) -> u64 {
        self.chunks.values().map(|chunk| chunk.len() as u64).sum()
    }

    /// How many pieces it lies in.
    pub fn pieces(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// The bytes from `offset`, at most `len`, fewer at the end.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(len as u64));
        if offset >= end {
            return Vec::new();
        }
        let mut out = vec![0; to_usize(end - offset)];
        for (&number, chunk) in self.chunks.range(chunk_of(offset)..=chunk_of(end - 1)) {
            let chunk_start = u64::from(number) * CHUNK;
            let from = offset.max(chunk_start);
            let to = end.min(chunk_start + chunk.len() as u64);
            if from < to {
                out[to_usize(from - offset)..to_usize(to - offset)].copy_from_slice(
                    &chunk[to_usize(from - chunk_start)..to_usize(to - chunk_start)],
                );
            }
        }
        out
    }

    /// All bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        self.read(0, to_usize(self.size))
    }

    /// Applies an update as one step.
    ///
    /// # Errors
    /// [`FsError::FileTooLarge`] if any operation would pass [`FILE_BYTES_MAX`]; nothing is changed then.
    pub fn apply(&mut self, update: &ContentUpdate) -> Result<(), FsError> {
        let mut next = self.clone();
        match update {
            ContentUpdate::Replace(ops) => {
                next = Self::default();
                ops.iter().try_for_each(|op| next.apply_op(op))?;
            }
            ContentUpdate::Patch(ops) => ops.iter().try_for_each(|op| next.apply_op(op))?,
            ContentUpdate::Append { truncate, data } => {
                if *truncate {
                    next = Self::default();
                }
                next.write(next.size, data)?;
            }
        }
        *self = next;
        Ok(())
    }

    /// Applies one operation.
    ///
    /// # Errors
    /// As [`Content::apply`].
    pub fn apply_op(&mut self, op: &ContentOp) -> Result<(), FsError> {
        match op {
            ContentOp::Write { offset, data } => self.write(*offset, data),
            ContentOp::Truncate(size) => self.truncate(*size),
            ContentOp::Extend(size) if *size > self.size => self.truncate(*size),
            ContentOp::Extend(_) => Ok(()),
            ContentOp::Zero { offset, len } => {
                self.zero(*offset, *len);
                Ok(())
            }
        }
    }

    /// The start of the first block that is no hole, at or after `offset`; `None` if only zeros follow (`SEEK_DATA`). A
    /// hole is a block of zeros, whether it was written or not.
    pub fn next_data(&self, offset: u64) -> Option<u64> {
        self.next_block(offset, false)
    }

    /// The start of the first hole at or after `offset`; the end of the file counts as one (`SEEK_HOLE`). `None` past
    /// the end.
    pub fn next_hole(&self, offset: u64) -> Option<u64> {
        let end = (offset < self.size).then_some(self.size)?;
        self.next_block(offset, true).or(Some(end))
    }

    fn next_block(&self, offset: u64, hole: bool) -> Option<u64> {
        let first = offset / BLOCK * BLOCK;
        let end = if offset < self.size { self.size } else { 0 };
        let mut blocks = (first..end).step_by(CONTENT_BLOCK_BYTES);
        let found = blocks.find(|&block| self.is_hole(block) == hole);
        found.map(|block| block.max(offset))
    }

    fn is_hole(&self, block: u64) -> bool {
        let Some(chunk) = self.chunks.get(&chunk_of(block)) else {
            return true;
        };
        let from = to_usize(block % CHUNK).min(chunk.len());
        let to = chunk.len().min(from + CONTENT_BLOCK_BYTES);
        chunk[from..to].iter().all(|&byte| byte == 0)
    }

    /// The stored pieces in order: number of the chunk and its bytes.
    pub fn chunks(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.chunks
            .iter()
            .map(|(number, chunk)| (*number, &chunk[..]))
    }

    /// Rebuilds a content from its pieces; `None` if they break an invariant.
    pub fn from_chunks(
        size: u64,
        chunks: impl IntoIterator<Item = (u32, Vec<u8>)>,
    ) -> Option<Self> {
        let mut content = Self {
            size,
            chunks: OrdMap::new(),
        };
        for (number, bytes) in chunks {
            let end = u64::from(number) * CHUNK + bytes.len() as u64;
            if bytes.is_empty()
                || bytes.len() > CONTENT_CHUNK_BYTES
                || end > size
                || size > FILE_BYTES_MAX
            {
                return None;
            }
            content.chunks.insert(number, bytes.into());
        }
        Some(content)
    }

    /// Puts bytes at `offset`.
    ///
    /// # Errors
    /// [`FsError::FileTooLarge`] past [`FILE_BYTES_MAX`].
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), FsError> {
        let end = offset
            .checked_add(data.len() as u64)
            .ok_or(FsError::FileTooLarge)?;
        if end > FILE_BYTES_MAX {
            return Err(FsError::FileTooLarge);
        }
        if data.is_empty() {
            return Ok(());
        }
        for number in chunk_of(offset)..=chunk_of(end - 1) {
            let start = u64::from(number) * CHUNK;
            let (from, to) = (offset.max(start), end.min(start + CHUNK));
            let old = self.chunks.get(&number).map_or(&[][..], |chunk| &chunk[..]);
            let mut bytes = Vec::with_capacity(old.len().max(to_usize(to - start)));
            bytes.extend_from_slice(old);
            bytes.resize(bytes.len().max(to_usize(to - start)), 0);
            bytes[to_usize(from - start)..to_usize(to - start)]
                .copy_from_slice(&data[to_usize(from - offset)..to_usize(to - offset)]);
            self.chunks.insert(number, bytes.into());
        }
        self.size = self.size.max(end);
        Ok(())
    }

    /// Sets the size.
    ///
    /// # Errors
    /// As [`Content::write`].
    pub fn truncate(&mut self, size: u64) -> Result<(), FsError> {
        if size > FILE_BYTES_MAX {
            return Err(FsError::FileTooLarge);
        }
        if size < self.size {
            let last = chunk_of(size);
            let (mut kept, cut, _) = self.chunks.split_lookup(&last);
            let rest = to_usize(size - u64::from(last) * CHUNK);
            if let Some(chunk) = cut
                && rest > 0
            {
                kept.insert(last, chunk[..rest.min(chunk.len())].into());
            }
            self.chunks = kept;
        }
        self.size = size;
        Ok(())
    }

    /// Zeros from `offset`, as holes where whole chunks are covered; the size stays.
    pub fn zero(&mut self, offset: u64, len: u64) {
        let end = self.size.min(offset.saturating_add(len));
        if offset >= end {
            return;
        }
        let touched: Vec<u32> = self
            .chunks
            .range(chunk_of(offset)..=chunk_of(end - 1))
            .map(|(n, _)| *n)
            .collect();
        for number in touched {
            let start = u64::from(number) * CHUNK;
            let mut bytes = self.chunks[&number].to_vec();
            let from = to_usize(offset.max(start) - start).min(bytes.len());
            let to = to_usize(end.min(start + CHUNK) - start).min(bytes.len());
            if from == 0 && to == bytes.len() {
                self.chunks.remove(&number);
            } else {
                bytes[from..to].fill(0);
                self.chunks.insert(number, bytes.into());
            }
        }
    }
}

fn chunk_of(offset: u64) -> u32 {
    // Offsets are checked against FILE_BYTES_MAX before they are written; a read far past the end saturates.
    u32::try_from(offset / CHUNK).unwrap_or(u32::MAX)
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("sizes are bounded by FILE_BYTES_MAX, which fits a 32-bit usize")
}

#[cfg(test)]
#[path = "content/model_test.rs"]
mod model_test;
