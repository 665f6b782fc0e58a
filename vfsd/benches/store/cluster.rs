//! Three real daemons, each with a mount, on this machine's loopback and disk.

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::Plan;
use crate::agents::{self, Place};
use crate::report::Report;
use crate::samples::{save, times};

const WITHIN: Duration = Duration::from_secs(60);

/// A daemon and where it is mounted.
struct Daemon {
    name: String,
    process: Child,
    listen: String,
    mount: PathBuf,
    data: PathBuf,
    runtime: PathBuf,
}

/// Three daemons; they and their mounts end with this value.
struct Cluster<'a> {
    plan: &'a Plan,
    daemons: Vec<Daemon>,
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            // What has ended or is unmounted already is what we want.
            let _ = daemon.process.kill();
            let _ = daemon.process.wait();
            let _ = umount2(&daemon.mount, MntFlags::MNT_DETACH);
        }
    }
}

/// Adds the rows of the replicated filesystem.
pub fn measure(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(plan)?;
    let leader = cluster.leader()?;
    let mounts = [leader, (leader + 1) % 3].map(|node| cluster.daemons[node].mount.clone());
    for folder in ["single", "new", "events"] {
        fs::create_dir_all(mounts[0].join(folder))?;
    }
    measure_single_calls(plan, report, &mounts)?;
    for (key, label, writers) in [
        (
            "writes_per_s_16",
            "saves per second, 16 writers, a folder each",
            16,
        ),
        (
            "writes_per_s_64",
            "saves per second, 64 writers, a folder each",
            64,
        ),
    ] {
        report.number(key, label, cluster.rate(writers)?);
    }
    agents::measure(plan, &cluster.places(), report)?;
    let memory = cluster.daemons[leader].rss_mib()?;
    report.number("rss_mib", "memory of the leader, MiB", memory);
    let gaps = (0..plan.kills).map(|_| cluster.leader_kill_gap());
    let gaps = gaps.collect::<anyhow::Result<Vec<f64>>>()?;
    report.times(
        "leader_kill_gap_ms",
        "longest gap between saves, leader killed",
        gaps,
    );
    Ok(())
}

const AT_LEADER: [(&str, &str); 2] = [
    (
        "save_overwrite_ms",
        "save of 256 B over a file, at the leader",
    ),
    ("save_new_ms", "save of 256 B as a new file, at the leader"),
];
const AT_FOLLOWER: [(&str, &str); 2] = [
    (
        "save_overwrite_follower_ms",
        "save of 256 B over a file, at a follower",
    ),
    (
        "save_new_follower_ms",
        "save of 256 B as a new file, at a follower",
    ),
];

/// One caller after the other, at the leader and at a follower.
fn measure_single_calls(
    plan: &Plan,
    report: &mut Report,
    mounts: &[PathBuf; 2],
) -> anyhow::Result<()> {
    for (mount, [overwrite, new]) in mounts.iter().zip([AT_LEADER, AT_FOLLOWER]) {
        let one = mount.join("single/file");
        report.times(
            overwrite.0,
            overwrite.1,
            times(plan.samples, |_| save(&one))?,
        );
        let name = |number: usize| mount.join(format!("new/{}-{number}", new.0));
        report.times(
            new.0,
            new.1,
            times(plan.samples, |number| save(&name(number)))?,
        );
    }
    let [at_leader, at_follower] = mounts;
    let seen = event_times(plan, &at_leader.join("events"), &at_follower.join("events"))?;
    report.times(
        "event_remote_ms",
        "start of a save to IN_CLOSE_WRITE elsewhere",
        seen,
    );
    let file = at_follower.join("single/file");
    report.times(
        "stat_ms",
        "stat",
        times(plan.samples, |_| Ok(fs::metadata(&file).map(drop)?))?,
    );
    let read = times(plan.samples, |_| Ok(fs::read(&file).map(drop)?))?;
    report.times("read_ms", "open, read 256 B, close", read);
    Ok(())
}

impl<'a> Cluster<'a> {
    fn start(plan: &'a Plan) -> anyhow::Result<Self> {
        let mut cluster = Self {
            plan,
            daemons: Vec::new(),
        };
        for number in 1..=3 {
            let name = format!("n{number}");
            let listen = format!(
                "127.0.0.1:{}",
                TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()
            );
            let at = |kind: &str| plan.dir.join(format!("{name}-{kind}"));
            let (data, runtime, mount) = (at("data"), at("run"), at("vfs"));
            let common = [
                "--node",
                &name,
                "--listen",
                &listen,
                "--data-dir",
                text(&data)?,
            ]
            .map(str::to_owned);
            match cluster.daemons.first() {
                None => cluster.vfsd(&[&["init".into()], &common[..]].concat())?,
                Some(first) => {
                    let token = cluster.vfsd(&[
                        "token",
                        "create",
                        "--runtime-dir",
                        text(&first.runtime)?,
                    ])?;
                    let join = ["join", "--peer", &first.listen, "--token", token.trim()]
                        .map(str::to_owned);
                    cluster.vfsd(&[&join[..], &common[..]].concat())?
                }
            };
            let process = spawn(plan, &name, &data, &runtime, &mount)?;
            cluster.daemons.push(Daemon {
                name: name.clone(),
                process,
                listen,
                mount: mount.clone(),
                data,
                runtime,
            });
            wait_until("a mount", || mount.join(".vfs").exists())?;
            if number > 1 {
                let runtime = text(&cluster.daemons[0].runtime)?.to_owned();
                cluster.vfsd(&[
                    "member".into(),
                    "promote".into(),
                    name,
                    "--runtime-dir".into(),
                    runtime,
                ])?;
            }
        }
        Ok(cluster)
    }

    fn vfsd(&self, arguments: &[impl AsRef<std::ffi::OsStr>]) -> anyhow::Result<String> {
        let output = Command::new(&self.plan.vfsd).args(arguments).output()?;
        ensure!(
            output.status.success(),
            "vfsd: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    fn places(&self) -> Vec<Place> {
        let place = |daemon: &Daemon| Place {
            node: daemon.name.clone(),
            mount: daemon.mount.clone(),
            data: daemon.data.clone(),
        };
        self.daemons.iter().map(place).collect()
    }

    /// Which daemon leads.
    fn leader(&self) -> anyhow::Result<usize> {
        let mut found = None;
        wait_until("a leader", || {
            found = self
                .daemons
                .iter()
                .position(|daemon| daemon.status("role").as_deref() == Some("leader"));
            found.is_some()
        })?;
        found.context("a leader was seen a moment ago")
    }

    /// Overwrites per second of writers that are spread over the nodes, each with a folder and a file of its own.
    fn rate(&self, writers: usize) -> anyhow::Result<f64> {
        rate(self.plan, writers, |writer| {
            let folder = self.daemons[writer % 3].mount.join(format!("w{writer}"));
            fs::create_dir_all(&folder)?;
            Ok(move || save(&folder.join("file")))
        })
    }

    /// Kills the leader under a writer on another node, tells the longest gap in milliseconds, and heals.
    fn leader_kill_gap(&mut self) -> anyhow::Result<f64> {
        let leader = self.leader()?;
        let file = self.daemons[(leader + 1) % 3].mount.join("gap");
        let stop = AtomicBool::new(false);
        let saved = AtomicU64::new(0);
        let gap = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    // A refused save is part of the gap.
                    if save(&file).is_ok() {
                        longest = longest.max(last.elapsed());
                        last = Instant::now();
                        saved.fetch_add(1, Ordering::Relaxed);
                    }
                }
                longest
            });
            let progress = |more: u64| {
                let from = saved.load(Ordering::Relaxed);
                wait_until("saves", || saved.load(Ordering::Relaxed) >= from + more)
            };
            let outcome = progress(50).and_then(|()| {
                self.daemons[leader].process.kill()?;
                self.daemons[leader].process.wait()?;
                progress(50)
            });
            stop.store(true, Ordering::Relaxed);
            let longest = writer
                .join()
                .map_err(|_| anyhow::anyhow!("the writer panicked"))?;
            outcome.map(|()| longest)
        })?;
        let Daemon {
            name,
            data,
            runtime,
            mount,
            ..
        } = &self.daemons[leader];
        let process = spawn(self.plan, name, data, runtime, mount)?;
        self.daemons[leader].process = process;
        let back = &self.daemons[leader];
        wait_until("the killed daemon", || {
            back.status("quorum").as_deref() == Some("true")
        })?;
        Ok(gap.as_secs_f64() * 1e3)
    }
}

impl Daemon {
    /// A field of `status.json`, as text.
    fn status(&self, field: &str) -> Option<String> {
        let status = fs::read(self.mount.join(".vfs/status.json")).ok()?;
        let status: serde_json::Value = serde_json::from_slice(&status).ok()?;
        Some(
            status[field]
                .as_str()
                .map_or_else(|| status[field].to_string(), str::to_owned),
        )
    }

    fn rss_mib(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }
}

/// Calls per second of `writers` threads; `writer(n)` makes the n-th one's call.
pub fn rate<Call>(
    plan: &Plan,
    writers: usize,
    writer: impl Fn(usize) -> anyhow::Result<Call>,
) -> anyhow::Result<f64>
where
    Call: FnMut() -> anyhow::Result<()> + Send,
{
    let calls = (0..writers)
        .map(&writer)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let done = AtomicU64::new(0);
    let start = Instant::now();
    let until = start + plan.parallel_for;
    std::thread::scope(|scope| {
        let threads: Vec<_> = calls
            .into_iter()
            .map(|mut call| {
                let done = &done;
                scope.spawn(move || -> anyhow::Result<()> {
                    while Instant::now() < until {
                        call()?;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a writer panicked"))?
        })
    })?;
    Ok(done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64())
}

/// Milliseconds from the start of a save in `here` to IN_CLOSE_WRITE in `there`.
fn event_times(plan: &Plan, here: &Path, there: &Path) -> anyhow::Result<Vec<f64>> {
    let file = here.join("file");
    save(&file)?;
    wait_until("the folder elsewhere", || there.join("file").exists())?;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    inotify.add_watch(there, AddWatchFlags::IN_CLOSE_WRITE)?;
    times(plan.samples.min(300), |_| {
        save(&file)?;
        let mut ready = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(WITHIN).unwrap_or(PollTimeout::MAX);
        ensure!(
            poll(&mut ready, limit)? > 0,
            "no event came within {WITHIN:?}"
        );
        inotify.read_events()?;
        Ok(())
    })
}

fn spawn(
    plan: &Plan,
    name: &str,
    data: &Path,
    runtime: &Path,
    mount: &Path,
) -> anyhow::Result<Child> {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(plan.dir.join(format!("{name}.log")))?;
    let mut command = Command::new(&plan.vfsd);
    command
        .arg("run")
        .arg("--data-dir")
        .arg(data)
        .arg("--runtime-dir")
        .arg(runtime)
        .arg("--mount")
        .arg(mount);
    Ok(command.stdout(Stdio::null()).stderr(log).spawn()?)
}

/// Looks again and again until `holds`.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let until = Instant::now() + WITHIN;
    while !holds() {
        if Instant::now() > until {
            bail!("waited in vain for {what}");
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    Ok(())
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
