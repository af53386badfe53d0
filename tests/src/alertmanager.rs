//! Debian's Alertmanager on the mail host, and a webhook that it delivers to.
//!
//! Owns: their config and their life, and its `amtool`. Must not: judge what is delivered.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::lab::Lab;
use crate::packages;
use crate::webserver::WebServer;

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
    webhook: WebServer,
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
        let webhook = WebServer::start(&lab.mail, WEBHOOK)?;
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
        Ok(Self { child, webhook })
    }

    /// Alerts that were delivered so far.
    #[must_use]
    pub fn delivered(&self) -> Vec<Value> {
        let told =
            self.webhook.asked().into_iter().filter_map(|one| serde_json::from_str::<Value>(&one.body).ok());
        told.flat_map(|told| told["alerts"].as_array().cloned().unwrap_or_default()).collect()
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
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
