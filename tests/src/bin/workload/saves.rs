//! Savers and readers of documents.
//!
//! Invariants: a number is printed only after its save was acknowledged; a reader never accepts a document that is
//! older than one it has seen. Who goes on after a refusal tells it, and goes on with the next number.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::document;

/// What a refusal means to a saver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its end.
    Ends,
    /// One line on standard error, if it is what a filesystem without a majority says.
    IsTold,
}

/// Saves document after document, and prints each number when its save is acknowledged.
///
/// # Errors
/// If a save fails.
pub fn save(file: &Path, first: u64, refusal: Refusal, ended: &AtomicBool) -> Result<()> {
    let save = |number: u64| {
        // As a shell's `>` does: truncate, write, close.
        let mut handle = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(file)?;
        handle.write_all(document::text(number).as_bytes())?;
        close(handle)
    };
    repeat(first, refusal, ended, save)
}

/// Makes one file after another, and prints each number when it is acknowledged.
///
/// # Errors
/// If one cannot be made.
pub fn create(folder: &Path, prefix: &str, refusal: Refusal, ended: &AtomicBool) -> Result<()> {
    let create = |number: u64| {
        let mut handle = File::create_new(folder.join(format!("{prefix}{number}")))?;
        handle.write_all(document::text(number).as_bytes())?;
        close(handle)
    };
    repeat(0, refusal, ended, create)
}

fn repeat(
    first: u64,
    refusal: Refusal,
    ended: &AtomicBool,
    change: impl Fn(u64) -> std::io::Result<()>,
) -> Result<()> {
    for number in first.. {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let start = Instant::now();
        match change(number) {
            Ok(()) => acknowledge(number)?,
            Err(error) => {
                let seconds = start.elapsed().as_secs_f64();
                let said = format!("change {number} refused after {seconds:.1} s");
                let code = error.raw_os_error();
                if refusal == Refusal::Ends || ![Some(libc::EIO), Some(libc::EROFS)].contains(&code)
                {
                    return Err(error).context(said);
                }
                eprintln!("{said}: {error}");
            }
        }
    }
    Ok(())
}

fn acknowledge(number: u64) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{number}")?;
    Ok(output.flush()?)
}

/// Closes a file and gives the error that the close itself returned; dropping would hide it.
fn close(file: File) -> std::io::Result<()> {
    let raw = file.as_raw_fd();
    std::mem::forget(file);
    // SAFETY: the descriptor was the file's own, and the file will not close it again.
    if unsafe { libc::close(raw) } != 0 {
        return Err(std::io::Error::last_os_error());
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

/// Prints the names of the files in `folder` that are whole, one a line. An empty one was made, its content refused.
///
/// # Errors
/// If one is mixed, torn, or of another number than its name says.
pub fn check(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let bytes = fs::read(folder.join(&name))?;
        if bytes.is_empty() {
            continue;
        }
        let number = document::number(&bytes).with_context(|| name.clone())?;
        if !name.ends_with(&number.to_string()) {
            bail!("{name} holds document {number}");
        }
        println!("{name}");
    }
    Ok(())
}
