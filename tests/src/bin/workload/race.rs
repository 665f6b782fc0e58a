//! Racing for names: of any number of racers, exactly one makes each.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

/// Tries to make the names `0` to `count - 1` and prints those that it made.
///
/// # Errors
/// If a name can neither be made nor is taken.
pub fn run(folder: &Path, count: u32, mkdir: bool) -> Result<()> {
    // Files that hold locks stay open: some locks end with the handle that made them.
    let mut held = Vec::new();
    for number in 0..count {
        let path = folder.join(number.to_string());
        let made = if mkdir {
            fs::create_dir(&path).map(|()| None)
        } else {
            File::create_new(&path).map(Some)
        };
        match made {
            Ok(file) => {
                held.extend(file);
                println!("{number}");
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    Ok(())
}
