//! Debian's Alertmanager on the mail host, and a webhook that it delivers to.
//!
//! Owns: their config and their life, and its `amtool`. Must not: judge what is delivered.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

use crate::lab::Lab;
use crate::packages;

/// Where it takes alerts, inside the mail host.
pub const AT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9093);
const WEBHOOK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9094);

/// Runs the program of an unpacked package with what the package has below /usr/share.
const IN_ITS_PLACE: &str = "mount -t tmpfs tmpfs /usr/share && cp -r \"$1\"/usr/share/. /usr/share/ && unpacked=$1 && shift \
    && exec \"$unpacked\"/usr/bin/prometheus-alertmanager \"$@\"";

/// A running Alertmanager with its webhook; dropping it ends both.
#[derive(Debug)]
pub struct Alertmanager {
    child: Child,
    delivered: Arc<Mutex<Vec<Value>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Alertmanager {
    /// Starts both. It delivers at once.
    ///
    /// # Errors
    /// When the package cannot be had, or a port is taken.
    pub fn start(lab: &Lab) -> Result<Self> {
        let dir = lab.dir().join("alertmanager");
        fs::create_dir(&dir)?;
        let config = dir.join("alertmanager.yml");
        fs::write(
            &config,
            format!(
                "route: {{ receiver: hook, group_by: [alertname], group_wait: 0s, group_interval: 1s, repeat_interval: 1h \
                 }}\nreceivers:\n- name: hook\n  webhook_configs: [{{ url: \"http://{WEBHOOK}/\" }}]\n"
            ),
        )?;
        let listener = lab.mail.run(|| TcpListener::bind(WEBHOOK))??;
        listener.set_nonblocking(true)?;
        let (delivered, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (of_thread, stopped) = (Arc::clone(&delivered), Arc::clone(&stop));
        let thread = lab.mail.thread("webhook", move || take(&listener, &of_thread, &stopped))?;
        let log = fs::File::create(dir.join("log"))?;
        let unpacked = packages::unpack("prometheus-alertmanager", &["prometheus-alertmanager"])?;
        // Its templates are looked for at a fixed place: what was unpacked is put there, for this program alone.
        let child = lab
            .mail_command("unshare")?
            .args(["--mount", "sh", "-c", IN_ITS_PLACE, "sh"])
            .arg(&unpacked)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={AT}"))
            .arg("--cluster.listen-address=")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start alertmanager")?;
        Ok(Self { child, delivered, stop, thread: Some(thread) })
    }

    /// Alerts that were delivered so far.
    #[must_use]
    pub fn delivered(&self) -> Vec<Value> {
        self.delivered.lock().map(|all| all.clone()).unwrap_or_default()
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
        self.stop.store(true, Ordering::Release);
        let ended =
            self.thread.take().map_or(Ok(()), |t| t.join().map_err(|_| anyhow!("it panicked")).flatten());
        if let Err(e) = ended {
            eprintln!("lab: webhook: {e:#}");
        }
    }
}

/// Runs its `amtool` with these arguments; whether it was content, and what it said.
///
/// # Errors
/// When the package cannot be had, or it cannot be started.
pub fn amtool(args: &[&str], dir: &Path) -> Result<(bool, String)> {
    let unpacked = packages::unpack("prometheus-alertmanager", &["prometheus-alertmanager"])?;
    let output = Command::new(unpacked.join("usr/bin/amtool")).args(args).current_dir(dir).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

fn take(listener: &TcpListener, delivered: &Mutex<Vec<Value>>, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Acquire) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::park_timeout(Duration::from_millis(20));
            continue;
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? <= 2 {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        let told: Value = serde_json::from_slice(&body)?;
        if let (Ok(mut all), Some(alerts)) = (delivered.lock(), told["alerts"].as_array()) {
            all.extend(alerts.iter().cloned());
        }
    }
    Ok(())
}
