//! Debian's Prometheus on the mail host, scraping the agent every second, and its `promtool`.
//!
//! Owns: its config, its life, its answers. Must not: judge them. It is unpacked, not installed: the package would start
//! a service on this machine.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::lab::Lab;
use crate::netns::NetNs;
use crate::{packages, poll};

/// Where it serves its API, inside the mail host.
const API: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
/// How long it may take to start.
const READY: Duration = Duration::from_secs(30);

/// A running Prometheus; dropping it kills it.
#[derive(Debug)]
pub struct Prometheus {
    ns: NetNs,
    dir: PathBuf,
    child: Child,
}

impl Prometheus {
    /// Starts it on the mail host with one job, `mailsteer`, that scrapes `target`, and waits until it answers.
    ///
    /// # Errors
    /// When the package cannot be had, or it does not start: the error holds its log.
    pub fn start(lab: &Lab, target: SocketAddr) -> Result<Self> {
        Self::start_with(lab, target, "}\n")
    }

    /// The same; `more` ends the global part of the config, and may add others.
    ///
    /// # Errors
    /// As [`Prometheus::start`].
    pub fn start_with(lab: &Lab, target: SocketAddr, more: &str) -> Result<Self> {
        let dir = lab.dir().join("prometheus");
        fs::create_dir(&dir)?;
        let config = dir.join("prometheus.yml");
        fs::write(
            &config,
            format!(
                "global: {{ scrape_interval: 1s, scrape_timeout: 1s, {more}scrape_configs:\n- job_name: mailsteer\n  \
                 static_configs: [{{ targets: [\"{target}\"] }}]\n"
            ),
        )?;
        let log = fs::File::create(dir.join("log"))?;
        let mut command = lab.mail_command(program("prometheus")?)?;
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={API}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("cannot start prometheus")?;
        let mut started = Self { ns: lab.mail.clone(), dir, child };
        started.wait_ready()?;
        Ok(started)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let ready = poll::until(READY, "Prometheus to be ready", || {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended: {status}");
            }
            Ok(self.get("/-/ready").ok().map(drop))
        });
        ready.map_err(|e| e.context(fs::read_to_string(self.dir.join("log")).unwrap_or_default()))
    }

    /// The series that a query answers with, now: labels and value of each.
    ///
    /// # Errors
    /// When it does not take the query.
    pub fn query(&self, query: &str) -> Result<Vec<(Value, f64)>> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let body = self.get(&format!("/api/v1/query?query={encoded}"))?;
        let answer: Value = serde_json::from_str(&body).with_context(|| format!("{query}: {body}"))?;
        let rows = answer["data"]["result"].as_array().with_context(|| format!("{query}: {body}"))?;
        let value = |row: &Value| row["value"][1].as_str().and_then(|text| text.parse().ok());
        let row = |row: &Value| Some((row["metric"].clone(), value(row)?));
        rows.iter().map(|one| row(one).with_context(|| format!("{query}: {one}"))).collect()
    }

    fn get(&self, path: &str) -> Result<String> {
        self.ns.run(|| -> Result<String> {
            let mut stream = TcpStream::connect_timeout(&API, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            // HTTP/1.0: the answer ends with the connection and is in one piece.
            stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {API}\r\n\r\n").as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
            if !head.lines().next().is_some_and(|status| status.contains(" 200 ")) {
                bail!("{path}: {head}: {body}");
            }
            Ok(body.to_owned())
        })?
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs `promtool` with these arguments in `dir`, with `input` on its standard input; whether it was content, and what
/// it said.
///
/// # Errors
/// When the package cannot be had, or it cannot be started.
pub fn promtool(args: &[&str], dir: &Path, input: &str) -> Result<(bool, String)> {
    let mut command = Command::new(program("promtool")?);
    command.args(args).current_dir(dir);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

fn program(name: &str) -> Result<PathBuf> {
    Ok(packages::unpack("prometheus", &["prometheus"])?.join("usr/bin").join(name))
}
