//! Small nodes on this machine: namespaces around a sleeping process, and a stand-in for systemctl where there is no
//! systemd.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const POSTGRES: &str = "/usr/lib/postgresql/15/bin/postgres";
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Started nodes; they end with this value.
pub struct Nodes {
    nodes: BTreeMap<String, Node>,
    /// The namespace of the bridge, and the nodes' first processes.
    children: Vec<Child>,
    scratch: PathBuf,
}

struct Node {
    pid: u32,
    address: String,
    /// Started by this test: it has no systemd.
    is_small: bool,
}

impl Nodes {
    /// Starts `count` nodes, or takes those that the environment names.
    ///
    /// # Errors
    /// Why this machine cannot have them.
    pub fn start(count: u32) -> Result<Self, String> {
        let scratch =
            std::env::temp_dir().join(format!("contextos-drivers-{}", std::process::id()));
        if let Ok(list) = std::env::var("CONTEXTOS_DRIVER_NODES") {
            let node = |entry: &str| {
                let mut parts = entry.split('=');
                let mut next = || {
                    parts
                        .next()
                        .unwrap_or_else(|| panic!("{entry} is not name=pid=address"))
                        .to_owned()
                };
                let (name, pid, address) =
                    (next(), next().parse().expect("pid is a number"), next());
                (
                    name,
                    Node {
                        pid,
                        address,
                        is_small: false,
                    },
                )
            };
            return Ok(Self {
                nodes: list.split(',').map(node).collect(),
                children: vec![],
                scratch,
            });
        }
        if !nix::unistd::geteuid().is_root() {
            return Err("nodes are namespaces, which need root".to_owned());
        }
        if !Path::new(POSTGRES).exists() {
            return Err(format!(
                "{POSTGRES} is not there: apt-get install postgresql-15"
            ));
        }
        fs::create_dir_all(&scratch).map_err(|cause| cause.to_string())?;
        fs::write(scratch.join("systemctl"), include_str!("systemctl.sh"))
            .map_err(|cause| cause.to_string())?;
        let mut nodes = Self {
            nodes: BTreeMap::new(),
            children: vec![],
            scratch,
        };
        let switch = nodes
            .namespace("ip link set lo up && ip link add br0 type bridge && ip link set br0 up")?;
        for number in 1..=count {
            nodes.small_node(number, switch)?;
        }
        Ok(nodes)
    }

    /// Address by node.
    pub fn addresses(&self) -> BTreeMap<String, String> {
        self.nodes
            .iter()
            .map(|(name, node)| (name.clone(), node.address.clone()))
            .collect()
    }

    /// Runs this program in a node, with `request` in the file that `variable` names, and reads its answer.
    pub fn call(&self, node: &str, variable: &Path, request: &[u8]) -> Vec<u8> {
        let root = PathBuf::from(format!("/proc/{}/root", self.nodes[node].pid));
        let (program, file) = ("/run/contextos-test", "/run/contextos-call.json");
        let inside = |path: &str| root.join(path.trim_start_matches('/'));
        if !inside(program).exists() {
            let own = std::env::current_exe().expect("/proc is mounted");
            fs::copy(own, inside(program)).expect("/run of a node can be written");
        }
        fs::write(inside(file), request).expect("/run of a node can be written");
        let assignment = format!("{}={file}", variable.display());
        let argv = [
            "env",
            &assignment,
            program,
            "--exact",
            "answer_a_call_inside_a_node",
            "--nocapture",
        ];
        let output = self.run(node, &argv);
        let answer = inside(&format!("{file}.answer"));
        let bytes =
            fs::read(&answer).unwrap_or_else(|_| panic!("no answer from {node}: {output:?}"));
        fs::remove_file(answer).expect("it was just read");
        bytes
    }

    /// Runs SQL as the superuser, which must succeed.
    pub fn sql(&self, node: &str, database: &str, sql: &str) -> String {
        let output = self.try_sql(node, database, sql);
        assert!(
            output.status.success(),
            "{node}: {sql}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Waits until a query answers `expected`.
    pub fn await_sql(&self, node: &str, database: &str, sql: &str, expected: &str) {
        let started = Instant::now();
        loop {
            let output = self.try_sql(node, database, sql);
            if String::from_utf8_lossy(&output.stdout).trim() == expected {
                return;
            }
            assert!(
                started.elapsed() < WAIT_MAX,
                "{node}: {sql} is not {expected}: {output:?}"
            );
        }
    }

    /// Logs in over the network with a password.
    pub fn login(&self, from: &str, address: &str, user: &str, password: &str) {
        let conninfo = format!("host={address} user={user} dbname=shop password={password}");
        let output = self.run(
            from,
            &[
                "/usr/lib/postgresql/15/bin/psql",
                "-d",
                &conninfo,
                "-c",
                "SELECT 1",
            ],
        );
        assert!(output.status.success(), "{output:?}");
    }

    /// Stops the deployment's servers, as a shutdown of the machines does.
    pub fn stop_servers(&self, uid: &str) {
        for node in self.nodes.keys() {
            let output = self.run(
                node,
                &[
                    "systemctl",
                    "stop",
                    &format!("contextos-postgres-{uid}.service"),
                ],
            );
            assert!(output.status.success(), "{output:?}");
        }
    }

    fn try_sql(&self, node: &str, database: &str, sql: &str) -> Output {
        let socket_dir = "/run/contextos-postgres-real-1";
        let user = [
            "setpriv",
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
        ];
        let psql = [
            "/usr/lib/postgresql/15/bin/psql",
            "-XAtq",
            "-h",
            socket_dir,
            "-d",
            database,
            "-c",
            sql,
        ];
        self.run(node, &[&user[..], &psql[..]].concat())
    }

    fn run(&self, node: &str, argv: &[&str]) -> Output {
        let node = &self.nodes[node];
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &node.pid.to_string(),
            "--mount",
            "--net",
            "--pid",
            "--root",
        ]);
        if !node.is_small {
            command.args(["--uts", "--ipc", "--cgroup"]);
        }
        command
            .args(["env", "--chdir=/"])
            .args(argv)
            .stdin(Stdio::null())
            .output()
            .expect("nsenter is part of util-linux")
    }

    /// Starts a process with namespaces of its own that has run `setup`; gives its process number.
    fn namespace(&mut self, setup: &str) -> Result<u32, String> {
        let ready = self.scratch.join(format!("ready-{}", self.children.len()));
        let script = format!(
            "{setup} && touch {} && exec sleep infinity",
            ready.display()
        );
        // They end with this process, however it ends, and hold none of its streams open.
        let argv = [
            "--pdeathsig=KILL",
            "unshare",
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
            "sh",
            "-ec",
        ];
        let child = Command::new("setpriv")
            .args(argv)
            .arg(script)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|cause| cause.to_string())?;
        let outer = child.id();
        self.children.push(child);
        let started = Instant::now();
        while !ready.exists() {
            if started.elapsed() > WAIT_MAX {
                return Err("a namespace did not come up; see the messages above".to_owned());
            }
            std::thread::yield_now();
        }
        let children =
            fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
        children
            .trim()
            .parse()
            .map_err(|_| format!("the namespace of {outer} has ended"))
    }

    fn small_node(&mut self, number: u32, switch: u32) -> Result<(), String> {
        let state = self.scratch.join(format!("n{number}"));
        let dirs = [
            "etc/contextos",
            "var/lib/contextos",
            "etc/systemd/system",
            "etc/postgresql-common",
        ];
        let mut setup = "mount -t proc proc /proc".to_owned();
        for dir in dirs {
            let below = state.join(dir);
            fs::create_dir_all(&below).map_err(|cause| cause.to_string())?;
            let keep = format!("mkdir -p /{dir} && mount --bind {} /{dir}", below.display());
            setup.push_str(&format!(" && {keep}"));
        }
        let shim = self.scratch.join("systemctl");
        setup.push_str(" && mount -t tmpfs tmpfs /run && ip link set lo up");
        // The first directory of the drivers' search path; what else lies in it is not needed in a node.
        setup.push_str(&format!(
            " && mount -t tmpfs -o mode=0755 tmpfs /usr/local/sbin && install -m 0755 {} /usr/local/sbin/systemctl",
            shim.display()
        ));
        let pid = self.namespace(&setup)?;
        let (link, address) = (format!("n{number}"), format!("10.88.0.{number}"));
        let commands = [
            format!(
                "nsenter -t {switch} -n ip link add {link} type veth peer name eth0 netns {pid}"
            ),
            format!("nsenter -t {switch} -n ip link set {link} master br0 up"),
            format!("nsenter -t {pid} -n ip addr add {address}/24 dev eth0"),
            format!("nsenter -t {pid} -n ip link set eth0 up"),
        ];
        for command in commands {
            let status = Command::new("sh")
                .args(["-c", &command])
                .status()
                .map_err(|cause| cause.to_string())?;
            if !status.success() {
                return Err(format!("{command} failed"));
            }
        }
        self.nodes.insert(
            format!("n{number}"),
            Node {
                pid,
                address,
                is_small: true,
            },
        );
        Ok(())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in &mut self.children {
            // `--kill-child` ends what lives in the namespaces.
            child.kill().ok();
            child.wait().ok();
        }
        // The servers end with the first process of their namespace, a moment later, and write until then.
        let started = Instant::now();
        let is_there = |node: &Node| Path::new(&format!("/proc/{}", node.pid)).exists();
        while self
            .nodes
            .values()
            .any(|node| node.is_small && is_there(node))
        {
            if started.elapsed() > WAIT_MAX {
                break;
            }
            std::thread::yield_now();
        }
        fs::remove_dir_all(&self.scratch).ok();
    }
}
