//! The calls that are timed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::Context;

/// The bytes of a save.
pub const SAVE: [u8; 256] = [b'x'; 256];

/// One save: create or truncate, write, close.
pub fn save(path: &Path) -> anyhow::Result<()> {
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    file.write_all(&SAVE)?;
    close(file)
}

/// The error of close is the error of the save: std drops it, so the descriptor is closed by hand.
fn close(file: File) -> anyhow::Result<()> {
    Ok(nix::unistd::close(file)?)
}

/// Saves over one file.
pub fn overwrite(folder: &Path) -> impl FnMut(usize) -> anyhow::Result<()> + use<> {
    let file = folder.join("file");
    move |_| save(&file)
}

/// Saves of new files, which stay: deleting them makes later creates slower.
pub fn new_file(folder: &Path) -> impl FnMut(usize) -> anyhow::Result<()> + use<> {
    let folder = folder.to_owned();
    move |number| save(&folder.join(number.to_string()))
}

/// New files on a local disk, each with fdatasync.
pub fn synced_new_file(folder: &Path) -> impl FnMut(usize) -> anyhow::Result<()> + use<> {
    let folder = folder.to_owned();
    move |number| {
        let mut file = File::create(folder.join(number.to_string()))?;
        file.write_all(&SAVE)?;
        file.sync_data()?;
        close(file)
    }
}

/// Appends to a file that stays open, each with fsync.
pub fn append(folder: &Path) -> anyhow::Result<impl FnMut(usize) -> anyhow::Result<()> + use<>> {
    let path = folder.join("appended");
    let mut file = File::options().create(true).append(true).open(path)?;
    Ok(move |_| {
        file.write_all(&SAVE)?;
        Ok(file.sync_all()?)
    })
}

/// Looks at a file's attributes.
pub fn stat(file: PathBuf) -> impl FnMut(usize) -> anyhow::Result<()> {
    move |_| Ok(fs::metadata(&file).map(drop)?)
}

/// Opens a file, reads it, closes it.
pub fn read(file: PathBuf) -> impl FnMut(usize) -> anyhow::Result<()> {
    move |_| Ok(fs::read(&file).map(drop)?)
}

/// What `ls -l` does of a folder, without the printing: its names, and each one's attributes.
pub fn list(folder: &Path) -> anyhow::Result<usize> {
    let mut names = 0;
    for entry in fs::read_dir(folder)? {
        fs::symlink_metadata(entry?.path())?;
        names += 1;
    }
    Ok(names)
}

/// A thread on the other end of a loopback connection that sends back what it gets.
pub struct Echo {
    here: TcpStream,
    there: Option<JoinHandle<()>>,
}

impl Echo {
    /// Connects.
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let here = TcpStream::connect(listener.local_addr()?)?;
        let (mut there, _) = listener.accept()?;
        here.set_nodelay(true)?;
        there.set_nodelay(true)?;
        let echo = std::thread::spawn(move || {
            let mut byte = [0];
            while there.read_exact(&mut byte).is_ok() && there.write_all(&byte).is_ok() {}
        });
        Ok(Self {
            here,
            there: Some(echo),
        })
    }

    /// One byte there and back: what waking somebody costs on this machine now.
    pub fn call(&self) -> anyhow::Result<()> {
        let mut byte = [1];
        (&self.here).write_all(&byte)?;
        Ok((&self.here).read_exact(&mut byte)?)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // A connection that is gone has ended the thread already.
        let _ = self.here.shutdown(std::net::Shutdown::Both);
        let _ = self.there.take().map(JoinHandle::join);
    }
}
