//! How fast a save is, as ratios to what the same machine does in the same minute.
//!
//! Everything that is compared lives at once and is called in turns (`figures/turns.rs`): the cluster with its mounts,
//! a save on local ext4, a put into a three-member etcd (when its program is installed), a raw round of our own Raft,
//! log and TLS without a filesystem, a filesystem of FUSE alone, and, if asked for, another build. Nothing in here
//! passes or fails: absolute numbers drift from machine to machine and from hour to hour.

mod calls;
mod comparisons;
mod events;
mod figures;
mod machine;
mod parallel;
mod parts;
mod plan;
mod systems;

use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use self::comparisons::COMPARISONS;
use self::figures::{json, table};
use self::plan::Plan;
use self::systems::raw_round;

const USAGE: &str = "\
Usage: bench [--json] [--quick] [--vfsd PROGRAM] [--against PROGRAM] [--dir DIR]

  --json             print one JSON object instead of the table
  --quick            a tenth of the samples: to see that it works, not to compare
  --vfsd PROGRAM     the build to measure, with dsm-agent beside it (default: target/dist/vfsd)
  --against PROGRAM  another build of vfsd: its rows in turns with ours, and ours by its
  --dir DIR          where the data lies, on a real disk (default: /var/tmp)
";

struct Arguments {
    json: bool,
    quick: bool,
    vfsd: PathBuf,
    against: Option<PathBuf>,
    dir: PathBuf,
}

/// What is asked for, or `None` if something else was done.
fn arguments() -> anyhow::Result<Option<Arguments>> {
    let mut parsed = Arguments {
        json: false,
        quick: false,
        vfsd: "target/dist/vfsd".into(),
        against: None,
        dir: "/var/tmp".into(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            let value = arguments.next();
            value.with_context(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--json" => parsed.json = true,
            "--quick" => parsed.quick = true,
            "--vfsd" => parsed.vfsd = value()?.into(),
            "--against" => parsed.against = Some(value()?.into()),
            "--dir" => parsed.dir = value()?.into(),
            // A child of the raw round, not for people.
            "--raw-member" => {
                raw_round::run_member(value()?.as_ref())?;
                return Ok(None);
            }
            // What `cargo bench` adds to every bench program.
            "--bench" => {}
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(None);
            }
            other => anyhow::bail!("unknown argument {other}\n\n{USAGE}"),
        }
    }
    Ok(Some(parsed))
}

fn program(path: &Path) -> anyhow::Result<PathBuf> {
    let missing = || {
        let path = path.display();
        format!("{path} is not there; build it: cargo build --profile dist -p vfsd -p dsm-agent")
    };
    path.canonicalize().with_context(missing)
}

/// What is mounted from here on goes with the last of our processes, also if they are killed.
fn mount_for_us_only() -> anyhow::Result<()> {
    let ours = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| {
        let kept = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, kept, None::<&str>)
    });
    ours.context("a mount namespace of our own; measuring needs root")
}

fn main() -> anyhow::Result<()> {
    let Some(arguments) = arguments()? else {
        return Ok(());
    };
    let vfsd = program(&arguments.vfsd)?;
    let against = arguments.against.as_deref().map(program).transpose()?;
    mount_for_us_only()?;
    let scratch = tempfile::Builder::new()
        .prefix("vfsd-bench-")
        .tempdir_in(&arguments.dir)?;
    let dir = scratch.path().to_owned();
    let report = parts::measure(&Plan::new(vfsd, against, dir, arguments.quick))?;
    if arguments.json {
        println!("{}", json(&report, COMPARISONS));
    } else {
        print!("{}", table(&report, COMPARISONS));
    }
    Ok(())
}
