//! A three-member etcd on the same disk, through its HTTP gateway with kept connections. Left out, and said so,
//! where the program is not installed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use system_tests::wait::wait_until;

use super::daemon::free_port;
use super::processes::Process;
use crate::calls::SAVE;
use crate::plan::WAIT_MAX;

/// Why its rows may be absent.
pub const ABSENT: &str = "etcd is not installed (apt-get install etcd-server)";

/// Three members; they end with this value.
pub struct Etcd {
    clients: Vec<u16>,
    _members: Vec<Process>,
}

impl Etcd {
    /// Starts three members with their data in `dir`. `None` where the program is not installed.
    pub fn start(dir: &Path) -> anyhow::Result<Option<Self>> {
        let mut version = Command::new("etcd");
        let version = version.arg("--version").stdout(Stdio::null()).status();
        if version.is_err() {
            return Ok(None);
        }
        let ports: Vec<u16> = (0..6).map(|_| free_port()).collect::<anyhow::Result<_>>()?;
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let (peers, clients) = ports.split_at(3);
        let cluster = peers.iter().enumerate();
        let cluster: Vec<String> = cluster
            .map(|(n, port)| format!("e{n}={}", url(port)))
            .collect();
        let cluster = cluster.join(",");
        let mut members = Vec::new();
        for n in 0..3 {
            let (name, peer, client) = (format!("e{n}"), url(&peers[n]), url(&clients[n]));
            let mut command = Command::new("etcd");
            command.args(["--name", &name, "--initial-cluster", &cluster]);
            command.args(["--listen-peer-urls", &peer]);
            command.args(["--initial-advertise-peer-urls", &peer]);
            command.args(["--listen-client-urls", &client]);
            command.args(["--advertise-client-urls", &client]);
            command.arg("--data-dir").arg(dir.join(format!("etcd{n}")));
            command.env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
            members.push(Process::spawn(command.stderr(Stdio::null()))?);
        }
        let etcd = Self {
            clients: clients.to_vec(),
            _members: members,
        };
        wait_until("etcd to take a put", WAIT_MAX, || {
            let put = etcd.client(0).and_then(|mut client| client.put("ready"));
            Ok(put.is_ok())
        })?;
        Ok(Some(etcd))
    }

    /// A client of its own; clients are spread over the members.
    pub fn client(&self, number: usize) -> anyhow::Result<Client> {
        Client::connect(self.clients[number % self.clients.len()])
    }
}

/// One kept connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Puts 256 B under `key`.
    pub fn put(&mut self, key: &str) -> anyhow::Result<()> {
        let body = format!(
            r#"{{"key":"{}","value":"{}"}}"#,
            base64(key.as_bytes()),
            base64(&SAVE)
        );
        let head = "POST /v3/kv/put HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
        let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut status = String::new();
        self.stream.read_line(&mut status)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().context("etcd's content-length")?;
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        if !status.contains(" 200 ") {
            bail!("etcd answered {status:?}");
        }
        Ok(())
    }
}

fn base64(bytes: &[u8]) -> String {
    data_encoding::BASE64.encode(bytes)
}
