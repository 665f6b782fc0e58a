//! Single calls, timed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

use anyhow::Context;

use crate::Plan;

/// The bytes of a save.
pub const SAVE: [u8; 256] = [b'x'; 256];

/// Runs `call` so often, after a few times that do not count, and tells the milliseconds of each.
pub fn times(
    count: usize,
    mut call: impl FnMut(usize) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<f64>> {
    let warm_up = count / 20 + 1;
    let mut samples = Vec::with_capacity(count);
    for number in 0..count + warm_up {
        let start = Instant::now();
        call(number)?;
        if number >= warm_up {
            samples.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(samples)
}

/// One save: create or truncate, write, close.
pub fn save(path: &Path) -> anyhow::Result<()> {
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    file.write_all(&SAVE)?;
    // The error of close is the error of the save: std drops it, so the descriptor is closed by hand.
    nix::unistd::close(file)?;
    Ok(())
}

/// A byte to a thread on loopback and back: what waking somebody costs on this machine now.
pub fn echo(plan: &Plan) -> anyhow::Result<Vec<f64>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut here = TcpStream::connect(listener.local_addr()?)?;
    let (mut there, _) = listener.accept()?;
    here.set_nodelay(true)?;
    there.set_nodelay(true)?;
    let echo = std::thread::spawn(move || {
        let mut byte = [0];
        while there.read_exact(&mut byte).is_ok() && there.write_all(&byte).is_ok() {}
    });
    let samples = times(plan.samples, |_| {
        let mut byte = [1];
        here.write_all(&byte)?;
        here.read_exact(&mut byte)?;
        Ok(())
    });
    drop(here);
    echo.join()
        .map_err(|_| anyhow::anyhow!("the echo thread panicked"))?;
    samples
}

/// A new file with fdatasync on the disk itself. The files stay to the end: deleting them makes later creates slower.
pub fn local_save(plan: &Plan) -> anyhow::Result<Vec<f64>> {
    let folder = plan.dir.join("ext4");
    fs::create_dir_all(&folder)?;
    times(plan.samples, |number| {
        let mut file = File::create(folder.join(number.to_string()))?;
        file.write_all(&SAVE)?;
        file.sync_data()?;
        nix::unistd::close(file)?;
        Ok(())
    })
}
