//! How fast a save is, as ratios to what the same machine does in the same run.
//!
//! Baselines beside the three-node cluster: a save on local ext4, a put into a three-member etcd (when its program is
//! installed), a raw round of our own Raft, log and TLS without a filesystem, and a filesystem of FUSE alone. Nothing
//! in here passes or fails: absolute numbers drift from machine to machine and from hour to hour.

mod agents;
mod cluster;
mod etcd;
mod floor;
mod raw_round;
mod report;
mod samples;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use report::Report;

const USAGE: &str = "\
Usage: bench [--json] [--quick] [--vfsd PROGRAM] [--dir DIR]

  --json            print one JSON object instead of the table
  --quick           a tenth of the samples: to see that it works, not to compare
  --vfsd PROGRAM    the release build to measure (default: target/dist/vfsd)
  --dir DIR         where the data lies, on a real disk (default: /var/tmp)
";

/// What to measure, and how often.
pub struct Plan {
    /// The daemon's program.
    pub vfsd: PathBuf,
    /// Folder on the disk to measure.
    pub dir: PathBuf,
    /// Samples of a single writer.
    pub samples: usize,
    /// How long parallel writers write.
    pub parallel_for: Duration,
    /// How long idle agents are watched: over a minute, in which each observes once.
    pub idle_for: Duration,
    /// How often the leader is killed.
    pub kills: usize,
}

fn main() -> anyhow::Result<()> {
    let mut json = false;
    let mut quick = false;
    let mut vfsd = PathBuf::from("target/dist/vfsd");
    let mut dir = PathBuf::from("/var/tmp");
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--json" => json = true,
            "--quick" => quick = true,
            "--vfsd" => vfsd = value()?.into(),
            "--dir" => dir = value()?.into(),
            // A child of the raw round, not for people.
            "--raw-member" => return raw_round::run_member(value()?.as_ref()),
            // What `cargo bench` adds to every bench program.
            "--bench" => {}
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(());
            }
            other => anyhow::bail!("unknown argument {other}\n\n{USAGE}"),
        }
    }
    let scratch = tempfile::Builder::new()
        .prefix("vfsd-bench-")
        .tempdir_in(&dir)?;
    let plan = Plan {
        vfsd: vfsd.canonicalize().with_context(|| {
            format!(
                "{} is not there; build it: cargo build --profile dist -p vfsd",
                vfsd.display()
            )
        })?,
        dir: scratch.path().to_owned(),
        samples: if quick { 100 } else { 1000 },
        parallel_for: Duration::from_secs(if quick { 1 } else { 5 }),
        idle_for: Duration::from_secs(if quick { 2 } else { 65 }),
        kills: if quick { 1 } else { 5 },
    };
    let report = measure(&plan)?;
    if json {
        report.print_json()
    } else {
        report.print_table()
    }
    Ok(())
}

fn measure(plan: &Plan) -> anyhow::Result<Report> {
    let mut report = Report::default();
    report.times("echo_ms", "loopback echo of one byte", samples::echo(plan)?);
    report.times(
        "ext4_save_ms",
        "save of 256 B on ext4, with fdatasync",
        samples::local_save(plan)?,
    );
    report.times(
        "fuse_floor_ms",
        "create, write, close on FUSE alone",
        floor::measure(plan)?,
    );
    report.times(
        "raw_round_ms",
        "Raft round on our log and TLS",
        raw_round::measure(plan)?,
    );
    etcd::measure(plan, &mut report)?;
    cluster::measure(plan, &mut report)?;
    Ok(report)
}
