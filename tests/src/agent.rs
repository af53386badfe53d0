//! The agent under test, as an operator runs it: one process, a config file, the command line.
//!
//! Owns: its life and its files. Must not: look into it other than by its commands, its metrics and the kernel.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::confine::Confinement;
use crate::exec;
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::poll;
use crate::unit::Unit;

/// How long the agent may take to answer after its start.
const READY: Duration = Duration::from_secs(20);

/// Where it serves its metrics unless the config says otherwise.
pub const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9925);

/// Set where the units' limits cannot be put on: in a kernel under emulation, which has none of the tools for it.
pub const UNCONFINED: &str = "MAILSTEER_UNCONFINED";

/// A running agent, under the limits of its unit; dropping it kills it.
#[derive(Debug)]
pub struct Agent {
    ns: NetNs,
    dir: PathBuf,
    bpffs: PathBuf,
    cgroup: PathBuf,
    confinement: Option<Confinement>,
    child: Option<Child>,
    environment: Vec<(String, OsString)>,
    wrapper: Vec<OsString>,
    within: Vec<OsString>,
}

impl Agent {
    /// Starts it on the mail host and waits until mail can leave: it answers, `status` does not say that mail does not
    /// leave as it should, and duplicate address detection has finished for every source.
    ///
    /// # Errors
    /// When it ends or is not ready in time: the error holds what it wrote.
    pub fn start(lab: &Lab, config: &str) -> Result<Self> {
        let mut agent = Self::prepare(lab, Some(config))?;
        agent.spawn(true)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts it, with a config or without, and waits only until it answers, whatever it says.
    ///
    /// # Errors
    /// When it ends or does not answer in time: the error holds what it wrote.
    pub fn launch(lab: &Lab, config: Option<&str>) -> Result<Self> {
        let mut agent = Self::prepare(lab, config)?;
        agent.spawn(config.is_some())?;
        Ok(agent)
    }

    /// From the next start on it runs under these limits instead of its unit's.
    pub fn confine(&mut self, confinement: Confinement) {
        self.confinement = Some(confinement);
    }

    /// Its files, and nothing that runs yet. In a container of unprivileged hosting it will run as its root.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn prepare(lab: &Lab, config: Option<&str>) -> Result<Self> {
        let dir = lab.dir().join("agent");
        let root = lab.mail.uid(0);
        for made in [&dir, &dir.join("state")] {
            fs::create_dir_all(made)?;
            std::os::unix::fs::chown(made, Some(root), Some(root))?;
        }
        if let Some(config) = config {
            fs::write(dir.join("mailsteer.toml"), config)?;
        }
        let (ns, bpffs) = (lab.mail.clone(), lab.bpffs());
        Ok(Self {
            ns,
            dir,
            bpffs,
            cgroup: lab.cgroup()?.to_owned(),
            confinement: None,
            child: None,
            environment: Vec::new(),
            wrapper: Vec::new(),
            within: Vec::new(),
        })
    }

    /// With this in its environment, from the next start on.
    pub fn set_env(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// Runs it by this program, which is given the agent's command line, from the next start on.
    pub fn set_wrapper(&mut self, wrapper: impl IntoIterator<Item = impl Into<OsString>>) {
        self.wrapper = wrapper.into_iter().map(Into::into).collect();
    }

    /// The same, but under the agent's limits: that program is started by what puts them on.
    pub fn set_wrapper_within(&mut self, wrapper: impl IntoIterator<Item = impl Into<OsString>>) {
        self.within = wrapper.into_iter().map(Into::into).collect();
    }

    /// Runs `mailsteer boot` with its files to its end.
    ///
    /// # Errors
    /// When it cannot be started; how it ended is in the output.
    pub fn boot(&self) -> Result<Output> {
        Ok(self.command("boot", true)?.output()?)
    }

    /// SIGHUP.
    ///
    /// # Errors
    /// When it is not running.
    pub fn hang_up(&self) -> Result<()> {
        let pid = self.pid().context("no agent is running")?;
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGHUP)?)
    }

    /// Writes another config and tells nobody.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_config(&self, config: &str) -> Result<()> {
        let fresh = self.dir.join("mailsteer.toml.new");
        fs::write(&fresh, config)?;
        Ok(fs::rename(fresh, self.config())?)
    }

    /// A command that runs with these files.
    fn command(&self, verb: &str, configured: bool) -> Result<Command> {
        let limits = self.limits(verb)?;
        let words = limits.as_ref().map(Confinement::words).transpose()?.into_iter().flatten();
        let program = self.within.iter().cloned().chain([binary()?.into_os_string()]);
        let mut words = self.wrapper.iter().cloned().chain(words).chain(program);
        let mut command = self.ns.command(words.next().unwrap_or_default());
        if limits.is_some() {
            let unit = Unit::read(unit_of(verb))?;
            command.envs(unit.values("Environment").filter_map(|setting| setting.split_once('=')));
        }
        command.args(words).arg(verb).envs(self.environment.iter().map(|(name, value)| (name, value)));
        if configured {
            command.arg("--config").arg(self.config());
        }
        command
            .arg("--socket")
            .arg(self.socket())
            .arg("--bpffs")
            .arg(&self.bpffs)
            .arg("--cgroup")
            .arg(&self.cgroup)
            .arg("--state")
            .arg(self.dir.join("state"))
            .stdin(Stdio::null());
        Cgroup::enter(&self.cgroup, &mut command)?;
        self.ns.as_its_root(&mut command);
        Ok(command)
    }

    /// Those of the unit that runs this verb, unless others were given. Everything that is written belongs to their
    /// user from now on.
    fn limits(&self, verb: &str) -> Result<Option<Confinement>> {
        // Nor are they a container's, whose root runs the agent with all that hosting lets it have.
        if std::env::var_os(UNCONFINED).is_some() || self.ns.is_unprivileged() {
            return Ok(None);
        }
        let limits = match &self.confinement {
            Some(given) => given.clone(),
            None => Confinement::of(&Unit::read(unit_of(verb))?, &self.dir)?,
        };
        // As the unit shows it: a directory of root's that anybody may pass, and the agent's own in it.
        fs::create_dir_all(self.bpffs.join("mailsteer"))?;
        limits.give(&self.bpffs.join("mailsteer"))?;
        fs::set_permissions(&self.bpffs, fs::Permissions::from_mode(0o755))?;
        limits.give(&self.dir)?;
        Ok(Some(limits))
    }

    fn spawn(&mut self, configured: bool) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log"))?;
        let mut command = self.command("agent", configured)?;
        command.stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("cannot start the agent")?);
        self.wait_answer()
    }

    fn wait_answer(&mut self) -> Result<()> {
        let answered = poll::until(READY, "the agent to answer", || {
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("the agent ended: {status}");
            }
            let answer = self.cli(&["status", "--json"])?;
            Ok(serde_json::from_slice::<serde_json::Value>(&answer.stdout).is_ok().then_some(()))
        });
        answered.map_err(|e| e.context(self.log().unwrap_or_default()))
    }

    fn wait_ready(&self) -> Result<()> {
        let ready = poll::until(READY, "mail to leave as it should", || {
            let well = self.cli(&["status"])?.status.code().is_some_and(|code| code < 2);
            Ok((well && !self.is_detecting()?).then_some(()))
        });
        ready.map_err(|e| e.context(self.log().unwrap_or_default()))
    }

    fn is_detecting(&self) -> Result<bool> {
        let rows = self.json(&["sources"])?;
        let reasons = rows.as_array().into_iter().flatten().filter_map(|row| row["reason"].as_str());
        Ok(reasons.into_iter().any(|reason| reason.contains("duplicate address detection has not finished")))
    }

    /// Runs a second agent with the same files to its end.
    ///
    /// # Errors
    /// When it cannot be started, or goes on; how it ended is in the output.
    pub fn second(&self) -> Result<Output> {
        let mut child = self.command("agent", true)?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let ended = poll::until(READY, "the second agent to end", || Ok(child.try_wait()?));
        if ended.is_err() {
            child.kill()?;
        }
        let output = child.wait_with_output()?;
        ended.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(output)
    }

    /// SIGTERM, as an init system stops it; waits for its end and says how it ended.
    ///
    /// # Errors
    /// When it is not running or does not end in time.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("no agent is running")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        poll::until(READY, "the agent to end", || Ok(child.try_wait()?))
    }

    /// Its config file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("mailsteer.toml")
    }

    /// Its state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Its control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("mailsteer.sock")
    }

    /// Its process id; `None` while it is dead.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What it has written so far.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.join("log"))?)
    }

    /// SIGKILL: no chance to tidy up.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Kills it if it runs, starts it again, waits until it answers.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.relaunch()?;
        self.wait_ready()
    }

    /// Kills it if it runs, starts it again, and waits only until it answers, whatever it says.
    ///
    /// # Errors
    /// As [`Agent::launch`].
    pub fn relaunch(&mut self) -> Result<()> {
        self.kill()?;
        self.spawn(self.config().exists())
    }

    /// Writes another config and lets the agent load it.
    ///
    /// # Errors
    /// When the agent does not take it; the error holds what it said.
    pub fn reload(&self, config: &str) -> Result<()> {
        self.write_config(config)?;
        let answer = self.cli(&["reload"])?;
        if !answer.status.success() {
            bail!(
                "reload: {}{}",
                String::from_utf8_lossy(&answer.stdout),
                String::from_utf8_lossy(&answer.stderr)
            );
        }
        Ok(())
    }

    /// Runs a command of the CLI against it.
    ///
    /// # Errors
    /// When it cannot be started; how it ended is in the output.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.ns.command(binary()?);
        self.ns.as_its_root(&mut command);
        Ok(command.args(args).arg("--socket").arg(self.socket()).stdin(Stdio::null()).output()?)
    }

    /// Takes everything of the agent's away, whether it runs or not.
    ///
    /// # Errors
    /// When something is left; the error holds what it said.
    pub fn teardown(&self) -> Result<()> {
        let mut command = self.ns.command(binary()?);
        command.args(["teardown", "--yes", "--socket"]).arg(self.socket());
        command.arg("--bpffs").arg(&self.bpffs).arg("--state").arg(self.dir.join("state"));
        self.ns.as_its_root(&mut command);
        exec::output(&mut command).map(drop)
    }

    /// Runs a command with `--json` and reads its answer, whatever its exit status.
    ///
    /// # Errors
    /// When the answer is no JSON; the error holds what it said.
    pub fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let answer = self.cli(&[args, &["--json"]].concat())?;
        serde_json::from_slice(&answer.stdout).with_context(|| {
            format!("{args:?}: {} {}", answer.status, String::from_utf8_lossy(&answer.stderr))
        })
    }

    /// Runs a command that answers with `--json` in lines, such as `connections`, and reads them.
    ///
    /// # Errors
    /// When it fails, or a line is no JSON.
    pub fn json_lines(&self, args: &[&str]) -> Result<Vec<serde_json::Value>> {
        let answer = self.cli(&[args, &["--json"]].concat())?;
        if !answer.status.success() {
            bail!("{args:?}: {}: {}", answer.status, String::from_utf8_lossy(&answer.stderr));
        }
        let text = String::from_utf8(answer.stdout)?;
        Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    }

    /// Its metrics as text.
    ///
    /// # Errors
    /// When they are not served at `at`.
    pub fn metrics(&self, at: SocketAddr) -> Result<String> {
        self.ns.run(|| -> Result<String> {
            let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(
                format!("GET /metrics HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").as_bytes(),
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
            if !head.starts_with("HTTP/1.1 200") {
                bail!("metrics: {head}");
            }
            Ok(body.to_owned())
        })?
    }

    /// The sum of a metric over all series that bear every one of these labels (`stream="marketing"`).
    ///
    /// # Errors
    /// As [`Agent::metrics`].
    pub fn metric(&self, at: SocketAddr, name: &str, labels: &[&str]) -> Result<f64> {
        Ok(self
            .metrics(at)?
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Err(e) = self.kill() {
            eprintln!("lab: agent: {e:#}");
        }
    }
}

/// The unit that runs a verb.
fn unit_of(verb: &str) -> &'static str {
    if verb == "boot" { "mailsteer-boot.service" } else { "mailsteer.service" }
}

/// The binary under test: `MAILSTEER_BIN`, as `cargo xtask test` sets it after building, or the one that cargo
/// left beside this test.
///
/// # Errors
/// When there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MAILSTEER_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("MAILSTEER_BIN names {}, which is not there", path.display());
        }
        return Ok(path);
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let path = workspace.join("target").join(profile).join("mailsteer");
    if !path.is_file() {
        bail!("no agent to test: cargo build -p mailsteer");
    }
    Ok(path)
}
