//! What the nft and iptables programs list. They are started with no shell, an empty environment and a time limit.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use mailsteer_core::doctor::{Firewall, Read, Unread, parse};
use serde_json::Value;

use super::files::{text, unread};
use super::odd;

/// Where distributions put them.
const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"];
/// A ruleset of a hundred thousand elements takes a second.
const LIMIT: Duration = Duration::from_secs(20);
/// Each lists the tables that are there, and makes none.
const SAVERS: [(&str, &str); 4] = [
    ("iptables-nft-save", "iptables-nft"),
    ("ip6tables-nft-save", "ip6tables-nft"),
    ("iptables-legacy-save", "iptables-legacy"),
    ("ip6tables-legacy-save", "ip6tables-legacy"),
];

pub(super) fn nft_version() -> Read<Option<String>> {
    if find("nft").is_none() {
        return Ok(None);
    }
    parse::nft_version(&run("nft", &["--version"])?)
        .map_or_else(|| odd("what nft --version says"), |v| Ok(Some(v)))
}

pub(super) fn nftables() -> Read<Firewall> {
    Ok(parse::nftables(&ruleset()?))
}

fn ruleset() -> Read<Value> {
    let text = run("nft", &["-j", "list", "ruleset"])?;
    serde_json::from_str(&text).or_else(|_| odd("what nft -j list ruleset says"))
}

/// Rules of iptables, whichever of its programs are installed.
pub(super) fn iptables() -> Read<Firewall> {
    let mut all = Firewall::default();
    let mut asked = false;
    for (saver, program) in SAVERS.into_iter().filter(|(saver, _)| find(saver).is_some()) {
        asked = true;
        let found = parse::iptables(program, &run(saver, &[])?);
        all.chains.extend(found.chains);
        all.rules.extend(found.rules);
        all.tracks |= found.tracks;
    }
    if !asked && has_rules()? {
        let why = "rules of iptables are there, and no iptables-save to list them".to_owned();
        return Err(Unread { why, needs_root: false });
    }
    Ok(all)
}

/// Whether iptables has tables here, of either kind.
fn has_rules() -> Read<bool> {
    let legacy =
        ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"].iter().any(
            |names| text(Path::new(names)).is_ok_and(|text| text.is_some_and(|text| !text.trim().is_empty())),
        );
    Ok(legacy || ruleset()?.to_string().contains("\"xt\""))
}

fn find(program: &str) -> Option<std::path::PathBuf> {
    PLACES.iter().map(|place| Path::new(place).join(program)).find(|path| path.is_file())
}

fn run(program: &str, arguments: &[&str]) -> Read<String> {
    let failed = |why: String, denied: bool| {
        let needs_root = denied && !nix::unistd::geteuid().is_root();
        Err(Unread { why: format!("{program}: {why}"), needs_root })
    };
    let Some(path) = find(program) else { return failed("not installed".to_owned(), false) };
    let mut child = Command::new(path)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| unread(program, &error))?;
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mut text = (String::new(), String::new());
        // Both are short or ends with the program; what is no UTF-8 is no answer.
        let read = out.as_mut().is_some_and(|out| out.read_to_string(&mut text.0).is_ok());
        let _ = err.as_mut().map(|err| err.read_to_string(&mut text.1));
        let _ = tell.send(read.then_some(text));
    });
    let Ok(said) = told.recv_timeout(LIMIT) else {
        let _ = child.kill();
        let _ = child.wait();
        return failed(format!("no answer within {} s", LIMIT.as_secs()), false);
    };
    let status = child.wait().map_err(|error| unread(program, &error))?;
    match said {
        Some((out, _)) if status.success() => Ok(out),
        Some((_, err)) => {
            let line = err.lines().find(|line| !line.trim().is_empty()).unwrap_or("failed without a word");
            failed(line.trim().to_owned(), true)
        }
        None => odd(program),
    }
}
