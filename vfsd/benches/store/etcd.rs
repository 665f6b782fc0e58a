//! A three-member etcd on the same disk, through its HTTP gateway with a kept connection. Left out, and said so,
//! where the program is not installed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::Plan;
use crate::report::Report;
use crate::samples::{SAVE, times};

const PUT: &str = "etcd put of 256 B, one client";
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Three members; they end with this value.
struct Etcd {
    members: Vec<Child>,
    clients: Vec<u16>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            // A member that has ended already is what we want.
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// Adds etcd's rows.
pub fn measure(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    if Command::new("etcd")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        report.absent(
            "etcd_put_ms",
            PUT,
            "etcd is not installed (apt-get install etcd-server)".into(),
        );
        return Ok(());
    }
    let etcd = Etcd::start(plan)?;
    let mut client = Client::connect(etcd.clients[0])?;
    report.times(
        "etcd_put_ms",
        PUT,
        times(plan.samples, |number| {
            client.put(&format!("k{}", number % 16))
        })?,
    );
    for (key, label, writers) in [
        (
            "etcd_writes_per_s_16",
            "etcd puts per second, 16 clients",
            16,
        ),
        (
            "etcd_writes_per_s_64",
            "etcd puts per second, 64 clients",
            64,
        ),
    ] {
        report.number(key, label, etcd.rate(plan, writers)?);
    }
    Ok(())
}

impl Etcd {
    fn start(plan: &Plan) -> anyhow::Result<Self> {
        let ports: Vec<u16> = (0..6).map(|_| free_port()).collect::<anyhow::Result<_>>()?;
        let (peers, clients) = ports.split_at(3);
        let cluster: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(n, port)| format!("e{n}=http://127.0.0.1:{port}"))
            .collect();
        let mut members = Vec::new();
        for n in 0..3 {
            let peer = format!("http://127.0.0.1:{}", peers[n]);
            let client = format!("http://127.0.0.1:{}", clients[n]);
            let member = Command::new("etcd")
                .args([
                    "--name",
                    &format!("e{n}"),
                    "--initial-cluster",
                    &cluster.join(","),
                ])
                .args([
                    "--listen-peer-urls",
                    &peer,
                    "--initial-advertise-peer-urls",
                    &peer,
                ])
                .args([
                    "--listen-client-urls",
                    &client,
                    "--advertise-client-urls",
                    &client,
                ])
                .arg("--data-dir")
                .arg(plan.dir.join(format!("etcd{n}")))
                .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            members.push(member);
        }
        let etcd = Self {
            members,
            clients: clients.to_vec(),
        };
        let until = Instant::now() + READY_WITHIN;
        while !etcd.answers() {
            if Instant::now() > until {
                bail!("etcd was not ready within {READY_WITHIN:?}");
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(etcd)
    }

    fn answers(&self) -> bool {
        Client::connect(self.clients[0])
            .and_then(|mut client| client.put("ready"))
            .is_ok()
    }

    fn rate(&self, plan: &Plan, writers: usize) -> anyhow::Result<f64> {
        crate::cluster::rate(plan, writers, |writer| {
            let mut client = Client::connect(self.clients[writer % 3])?;
            Ok(move || client.put(&format!("w{writer}")))
        })
    }
}

/// One kept connection.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READY_WITHIN))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    fn put(&mut self, key: &str) -> anyhow::Result<()> {
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

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
