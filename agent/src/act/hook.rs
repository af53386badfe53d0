//! Telling somebody of an event: a URL, or a program.
//!
//! Owns: one delivery, with its time limit. Must not: choose, wait or try again; the daemon does.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use hyper::Method;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::http::{Call, Client, Secretive};
use crate::secret::Secret;

/// Bytes of an answer that are read: nothing is done with it.
const ANSWER: usize = 64 * 1024;
/// Characters of a program's complaint that are kept.
const COMPLAINT: usize = 300;
/// Where programs that a hook's program starts are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why somebody was not told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Untold {
    /// Trying again is of no use.
    Refused(String),
    /// Somebody may be there later.
    Later(String),
}

/// A URL that events are posted to.
#[derive(Debug)]
pub struct Webhook {
    client: Client,
    url: Secretive,
    secret: Option<(String, String)>,
    patience: Duration,
}

impl Webhook {
    /// `secret`: a header, and the file or credential that holds what it says. `ca`: certificates in place of the host's.
    #[must_use]
    pub fn new(url: &str, secret: Option<(String, String)>, ca: Option<&str>, patience: Duration) -> Self {
        Self { client: Client::new(ca), url: Secretive(url.to_owned()), secret, patience }
    }

    /// Posts JSON once.
    ///
    /// # Errors
    /// [`Untold`]; neither the URL nor the secret is in it.
    pub async fn post(&self, json: &str) -> Result<(), Untold> {
        let later = |error: &dyn std::fmt::Display| Untold::Later(error.to_string());
        let secret = match &self.secret {
            // Read each time, so that a new one needs no reload.
            Some((header, file)) => {
                Some((header.clone(), Secret::read(file).map_err(|error| later(&error))?))
            }
            None => None,
        };
        let call = Call {
            method: Method::POST,
            url: self.url.clone(),
            secret,
            body: Some(("application/json", json.as_bytes().to_vec())),
            patience: self.patience,
            most: ANSWER,
        };
        let answer = self.client.send(call).await.map_err(|error| later(&error))?;
        match answer.status {
            200..=299 => Ok(()),
            // Asked for less, or not ready: both pass.
            status @ (408 | 425 | 429 | 500..=599) => Err(Untold::Later(format!("answered {status}"))),
            status => Err(Untold::Refused(format!("answered {status}"))),
        }
    }
}

/// A program that gets events on its standard input.
#[derive(Clone, Debug)]
pub struct Program {
    words: Vec<String>,
    patience: Duration,
}

impl Program {
    /// Its absolute path, and its arguments.
    #[must_use]
    pub const fn new(words: Vec<String>, patience: Duration) -> Self {
        Self { words, patience }
    }

    /// Runs it once, in a process group of its own; what of that still runs when time is over is killed.
    ///
    /// # Errors
    /// Why it did not do its work, in words.
    pub async fn run(&self, json: &str, about: &[(&str, &str)]) -> Result<(), String> {
        let Some((program, arguments)) = self.words.split_first() else {
            return Err("there is no program".to_owned());
        };
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .envs(about.iter().copied())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{program} cannot be run: {error}"))?;
        let mut group = Group::of(&child);
        match tokio::time::timeout(self.patience, watch(&mut child, json)).await {
            Ok(Ok((status, complaint))) => {
                // Its number may be another's from now on.
                group.0 = None;
                judge(program, status, &complaint)
            }
            Ok(Err(error)) => Err(format!("{program}: {error}")),
            Err(_late) => {
                drop(group);
                // It was killed; this only takes its end in.
                let _status = child.wait().await;
                Err(format!("{program} was killed: it did not end within {} s", self.patience.as_secs()))
            }
        }
    }
}

/// The processes of a run that has not ended. They are killed with it.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Nobody left of it, mostly.
            let _gone = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Feeds it, and takes in what it complains of, to its end.
async fn watch(child: &mut Child, json: &str) -> std::io::Result<(ExitStatus, String)> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let feed = async {
        // A program that does not want to know closes the pipe.
        if let Some(mut stdin) = stdin {
            let _closed = stdin.write_all(json.as_bytes()).await;
        }
    };
    let complain = async {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            let _ended = stderr.take(ANSWER as u64).read_to_end(&mut said).await;
        }
        let said = String::from_utf8_lossy(&said);
        said.trim().chars().filter(|c| !c.is_control()).take(COMPLAINT).collect()
    };
    let ((), complaint, status) = tokio::join!(feed, complain, child.wait());
    Ok((status?, complaint))
}

fn judge(program: &str, status: ExitStatus, complaint: &str) -> Result<(), String> {
    if status.success() {
        return Ok(());
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    Err(format!("{program} {how}{}{complaint}", if complaint.is_empty() { "" } else { ": " }))
}

/// Programs that this thread starts from now on get none of the agent's capabilities.
///
/// # Errors
/// Where the kernel refuses.
pub fn without_capabilities() -> std::io::Result<()> {
    Ok(rustix::thread::clear_ambient_capability_set()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(words: &[&str], patience: Duration) -> Program {
        Program::new(words.iter().map(|word| (*word).to_owned()).collect(), patience)
    }

    #[tokio::test]
    async fn a_program_gets_the_event_and_its_complaint_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let script = format!("cat > {}; echo $MAILSTEER_EVENT >> {}", out.display(), out.display());
        let well = program(&["/bin/sh", "-c", &script], Duration::from_secs(10));
        well.run("{}", &[("MAILSTEER_EVENT", "listed")]).await.unwrap();
        assert_eq!(std::fs::read_to_string(out).unwrap(), "{}listed\n");
        let ill = program(&["/bin/sh", "-c", "echo no pager >&2; exit 3"], Duration::from_secs(10));
        assert_eq!(ill.run("{}", &[]).await, Err("/bin/sh ended with 3: no pager".to_owned()));
        let none = program(&["/no/such/program"], Duration::from_secs(10)).run("{}", &[]).await;
        assert!(none.unwrap_err().contains("cannot be run"));
    }

    /// It does not read, and has a child that outlives it.
    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; exec sleep 1000", pid.display());
        let hangs = program(&["/bin/sh", "-c", &script], Duration::from_secs(1));
        let json = "x".repeat(1 << 20);
        let error = hangs.run(&json, &[]).await.unwrap_err();
        assert_eq!(error, "/bin/sh was killed: it did not end within 1 s");
        let pid = std::fs::read_to_string(pid).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        let began = std::time::Instant::now();
        while !gone() {
            assert!(began.elapsed() < Duration::from_secs(5), "the child lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
