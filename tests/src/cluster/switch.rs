//! The network of a cluster: a bridge in a namespace of its own, one cable and one namespace for each node.
//!
//! Invariants: the host's interfaces and routes are never touched; every operation may be repeated. A cut drops frames
//! silently in the switch, as a broken cable behind a second switch does: no node sees a link go down.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::host_command;

/// Drops what enters or leaves by a port in the set `cut`, and what passes between two ports in the set `cut_pairs`.
const RULES: &str = r#"
table bridge faults {
    set cut { type ifname; }
    set cut_pairs { type ifname . ifname; }
    chain forward {
        type filter hook forward priority 0; policy accept;
        iifname @cut drop
        oifname @cut drop
        iifname . oifname @cut_pairs drop
    }
}
"#;

/// The switch of one cluster.
#[derive(Debug, Clone)]
pub struct Switch {
    prefix: String,
    subnet: [u8; 3],
}

impl Switch {
    /// The switch of the cluster `cluster` with addresses `subnet`.1 and up; nothing is made yet.
    pub fn new(cluster: &str, subnet: [u8; 3]) -> Self {
        Self {
            prefix: format!("ctx-{cluster}"),
            subnet,
        }
    }

    /// Address of the node with this index.
    pub fn address(&self, index: u8) -> String {
        let [a, b, c] = self.subnet;
        format!("{a}.{b}.{c}.{index}")
    }

    /// The file that names the network namespace of `node`.
    pub fn namespace_path(&self, node: &str) -> PathBuf {
        PathBuf::from("/run/netns").join(self.namespace(node))
    }

    /// Makes the switch, if it is not there.
    ///
    /// # Errors
    /// If `ip` or `nft` fails.
    pub fn ensure_up(&self) -> Result<()> {
        let namespace = self.namespace("switch");
        if self.namespace_path("switch").exists() {
            return Ok(());
        }
        ip(&["netns", "add", &namespace])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", &namespace, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &namespace, "link", "set", "br0", "up"])?;
        self.nft(RULES)
    }

    /// Makes the network namespace of `node` and its cable, if they are not there.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn ensure_cable(&self, node: &str, index: u8) -> Result<()> {
        let (switch, namespace, port) =
            (self.namespace("switch"), self.namespace(node), port(node));
        if self.namespace_path(node).exists() {
            return Ok(());
        }
        ip(&["netns", "add", &namespace])?;
        let peer = ["peer", "name", "eth0", "netns", &namespace];
        ip(&[
            &["-n", &switch, "link", "add", &port, "type", "veth"][..],
            &peer,
        ]
        .concat())?;
        ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
        let address = format!("{}/24", self.address(index));
        ip(&["-n", &namespace, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])
    }

    /// Cuts `node` off from all others.
    ///
    /// # Errors
    /// If `nft` fails.
    pub fn cut(&self, node: &str) -> Result<()> {
        self.nft(&format!(
            "add element bridge faults cut {{ \"{}\" }}",
            port(node)
        ))
    }

    /// Drops what `from` sends to `to`; the other direction goes on.
    ///
    /// # Errors
    /// If `nft` fails.
    pub fn cut_direction(&self, from: &str, to: &str) -> Result<()> {
        let pair = format!("\"{}\" . \"{}\"", port(from), port(to));
        self.nft(&format!("add element bridge faults cut_pairs {{ {pair} }}"))
    }

    /// Ends every cut that concerns `node`.
    ///
    /// # Errors
    /// If `nft` fails.
    pub fn heal(&self, node: &str) -> Result<()> {
        // Deleting an absent element is an error and adding a present one is not: add, then delete.
        let port = port(node);
        let element = format!("bridge faults cut {{ \"{port}\" }}");
        self.nft(&format!(
            "add element {element}\ndelete element {element}\nflush set bridge faults cut_pairs"
        ))
    }

    /// Whether `node` is cut off.
    ///
    /// # Errors
    /// If `nft` fails.
    pub fn is_cut(&self, node: &str) -> Result<bool> {
        let namespace = self.namespace("switch");
        let listing = [
            "netns", "exec", &namespace, "nft", "list", "set", "bridge", "faults", "cut",
        ];
        Ok(host_command::run("ip", listing)?.contains(&format!("\"{}\"", port(node))))
    }

    /// Takes the cable and the network namespace of `node` away.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn ensure_no_cable(&self, node: &str) -> Result<()> {
        self.delete_namespace(node)
    }

    /// Takes the switch away; cables of nodes go with it.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn ensure_down(&self) -> Result<()> {
        self.delete_namespace("switch")
    }

    fn delete_namespace(&self, node: &str) -> Result<()> {
        if self.namespace_path(node).exists() {
            ip(&["netns", "del", &self.namespace(node)])
        } else {
            Ok(())
        }
    }

    fn namespace(&self, node: &str) -> String {
        format!("{}-{node}", self.prefix)
    }

    fn nft(&self, program: &str) -> Result<()> {
        use std::io::Write;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace("switch"), "nft", "-f", "-"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start nft")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(program.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("nft refused {program:?}: {}", host_command::said(&output));
        }
        Ok(())
    }
}

/// The switch's end of a node's cable.
fn port(node: &str) -> String {
    format!("to-{node}")
}

fn ip(arguments: &[&str]) -> Result<()> {
    host_command::run("ip", arguments).map(drop)
}
