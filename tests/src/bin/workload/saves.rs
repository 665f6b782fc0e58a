//! Savers and readers of documents.
//!
//! Invariants: a number is printed only after its save was acknowledged; a reader never accepts a document that is
//! older than one it has seen.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

use crate::document;

/// Saves document after document, and prints each number when its save is acknowledged.
///
/// # Errors
/// If a save fails.
pub fn save(file: &Path, first: u64, ended: &AtomicBool) -> Result<()> {
    let mut number = first;
    while !ended.load(Ordering::Relaxed) {
        // As a shell's `>` does: truncate, write, close.
        let mut handle = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(file)?;
        handle.write_all(document::text(number).as_bytes())?;
        close(handle).with_context(|| format!("save {number}"))?;
        acknowledge(number)?;
        number += 1;
    }
    Ok(())
}

/// Makes one file after another, and prints each number when it is acknowledged.
///
/// # Errors
/// If one cannot be made.
pub fn create(folder: &Path, prefix: &str, ended: &AtomicBool) -> Result<()> {
    let mut number = 0;
    while !ended.load(Ordering::Relaxed) {
        let mut handle = File::create_new(folder.join(format!("{prefix}{number}")))?;
        handle.write_all(document::text(number).as_bytes())?;
        close(handle).with_context(|| format!("file {number}"))?;
        acknowledge(number)?;
        number += 1;
    }
    Ok(())
}

fn acknowledge(number: u64) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{number}")?;
    Ok(output.flush()?)
}

/// Closes a file and gives the error that the close itself returned; dropping would hide it.
fn close(file: File) -> Result<()> {
    let raw = file.as_raw_fd();
    std::mem::forget(file);
    // SAFETY: the descriptor was the file's own, and the file will not close it again.
    if unsafe { libc::close(raw) } != 0 {
        return Err(std::io::Error::last_os_error()).context("close");
    }
    Ok(())
}

/// Reads again and again, and prints how often and up to which number.
///
/// # Errors
/// If a document is empty, mixed, or older than one before.
pub fn read(file: &Path, ended: &AtomicBool) -> Result<()> {
    let (mut reads, mut newest) = (0_u64, 0);
    while !ended.load(Ordering::Relaxed) {
        let bytes = fs::read(file)?;
        let number = document::number(&bytes)
            .with_context(|| format!("read {reads} after document {newest}"))?;
        if number < newest {
            bail!("read document {number} after document {newest}");
        }
        newest = number;
        reads += 1;
    }
    println!("{reads} {newest}");
    Ok(())
}
