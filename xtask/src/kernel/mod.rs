//! `cargo xtask test --kernel 6.1`: the agent and its tests on another kernel, under qemu's software emulation.
//!
//! Owns: the machine (kernel, initramfs, qemu) and reading its console. Must not: count tests; what they print goes on
//! to standard output, where `cargo xtask test` counts. KVM is not used: it is not there on every machine.

mod initramfs;
mod packages;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::programs::{self, Built, Kind};
use crate::{run, setup};
use initramfs::Tree;
use packages::Kernel;

/// What stands in for the rest of a system.
const BUSYBOX: &str = "/bin/busybox";
const QEMU: &str = "qemu-system-x86_64";
/// An old one: what newer ones have beside (AVX, XSAVE, PCID) is emulated as well, and took a fifth of the time.
const PROCESSOR: &str = "Nehalem";
/// Programs that agent and lab call.
const TOOLS: [&str; 4] = ["nft", "ip", "tc", "conntrack"];
/// Files of tests.
const TESTS: [&str; 2] = ["bpf", "kernels"];
/// The file of tests with MTAs, and of those the ones with the settings that docs/mta-recipes.md recommends.
const MTA_TESTS: (&str, &str) = ("logs", "--exact exim opensmtpd postfix sendmail");
/// What those settings are read from.
const RECIPES: &str = "docs/mta-recipes.md";
/// Of a system, what is empty at first.
const DIRECTORIES: [&str; 11] =
    ["dev", "proc", "sys", "tmp", "scratch", "run", "root", "etc", "var/spool", "var/log", "var/lib"];
/// Says where the MTAs are unpacked.
const UNPACKER: &str = "lab-mtas";
/// Boot and tests together; they take five minutes on two cores, with MTAs four.
const DEADLINE: Duration = Duration::from_secs(2_700);
/// What the last line of the console begins with.
const END: &str = "mailsteer machine: ended with ";
/// How many of the console's lines are shown when the machine did not come to its end.
const LAST: usize = 30;

/// Why it cannot run here.
pub(crate) fn obstacle() -> Option<String> {
    [(QEMU, setup::find(QEMU).is_some()), (BUSYBOX, packages::is_file(BUSYBOX))]
        .into_iter()
        .find_map(|(name, is_there)| (!is_there).then(|| format!("no {name}: cargo xtask setup installs it")))
}

/// Boots the newest kernel of a series and runs the tests there.
pub(crate) fn run(series: &str, mtas: bool) -> Result<()> {
    if let Some(obstacle) = obstacle() {
        bail!("{obstacle}");
    }
    let kernel = Kernel::fetch(series)?;
    let home = tempfile::tempdir()?;
    let archive = home.path().join("initramfs");
    fs::write(&archive, tree(&kernel, home.path(), mtas)?.archive()?)?;
    println!("booting {}", kernel.release);
    let began = Instant::now();
    let code = watch(boot(&kernel.image(), &archive)?)?;
    println!("{} ended after {:.0} s", kernel.release, began.elapsed().as_secs_f64());
    if code != "0" {
        bail!("tests failed on {}", kernel.release);
    }
    Ok(())
}

/// Everything that the machine has.
fn tree(kernel: &Kernel, home: &Path, mtas: bool) -> Result<Tree> {
    let mut tree = Tree::default();
    for directory in DIRECTORIES {
        tree.directory(directory);
    }
    tree.file("bin/busybox", Path::new(BUSYBOX));
    // Not busybox's shell, which takes its own `ip` for the one that is asked for.
    let shell = fs::canonicalize("/bin/sh").context("no shell")?;
    tree.program("bin/sh", &shell)?;
    // By this name the kernel asks for a module.
    tree.link("sbin/modprobe", "../bin/busybox");
    tree.link("var/run", "/run");
    for names in ["etc/passwd", "etc/group"] {
        tree.file(names, &Path::new("/").join(names));
    }
    for tool in TOOLS {
        let path = setup::find(tool).with_context(|| format!("no {tool}: cargo xtask setup installs it"))?;
        tree.program(&format!("usr/sbin/{tool}"), &path)?;
    }
    let built = built(mtas)?;
    if mtas {
        put_mtas(&mut tree, &built)?;
    }
    for (name, path) in built {
        let slim = home.join(&name);
        run::show(Command::new("strip").arg("--strip-debug").arg("-o").arg(&slim).arg(&path))?;
        tree.program(&format!("tests/{name}"), &slim)?;
    }
    kernel.install_modules(&mut tree)?;
    tree.text("init", init(mtas));
    Ok(tree)
}

/// The MTAs, where they are unpacked here, and what their settings are read from.
fn put_mtas(tree: &mut Tree, built: &[(String, PathBuf)]) -> Result<()> {
    let (_, unpacker) = built.iter().find(|(name, _)| name == UNPACKER).context("the lab has no MTAs")?;
    let folders =
        run::ask(&mut Command::new(unpacker)).context("the MTAs cannot be unpacked: see `lab-mtas`")?;
    for folder in folders.lines() {
        tree.folder(Path::new(folder))?;
    }
    tree.directory(&run::root().join("tests").display().to_string());
    let recipes = run::root().join(RECIPES);
    tree.file(&recipes.display().to_string(), &recipes);
    Ok(())
}

/// The agent, the lab's programs and the tests, as cargo builds them now: name and path.
fn built(mtas: bool) -> Result<Vec<(String, PathBuf)>> {
    let homes = ["agent", "tests"].map(|home| run::root().join(home));
    let wanted = |one: &Built| match one.kind {
        Kind::Program => homes.contains(&one.home),
        Kind::Integration if mtas => one.name == MTA_TESTS.0,
        Kind::Integration => TESTS.contains(&one.name.as_str()),
        Kind::Unit => false,
    };
    let built = programs::build(&[])?;
    Ok(built.into_iter().filter(wanted).map(|one| (one.name, one.path)).collect())
}

/// The first process: the file systems of a host, the tests one after the other, the end. What is temporary is not in /tmp, where the
/// workspace may lie.
fn init(mtas: bool) -> String {
    let run = |(name, which): (&str, &str)| {
        format!("/tests/{name} --test-threads=1 --show-output {which} || code=1\n")
    };
    let tests = if mtas { run(MTA_TESTS) } else { TESTS.map(|name| run((name, ""))).concat() };
    format!(
        "#!/bin/sh
/bin/busybox --install -s /bin 2>/dev/null
mkdir -p /usr/bin
ln -s /bin/env /usr/bin/env
export PATH=/usr/sbin:/usr/bin:/bin:/sbin HOME=/root TMPDIR=/scratch MAILSTEER_BIN=/tests/mailsteer MAILSTEER_TEST_PATIENCE=4 MAILSTEER_UNCONFINED=1 RUST_BACKTRACE=0
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs scratch /scratch
mount -t tmpfs run /run
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ip link set lo up
# What makes /dev/net/tun is not asked for by whoever opens it.
modprobe tun
hostname machine
uname -a
code=0
{tests}echo '{END}'$code
poweroff -f
"
    )
}

fn boot(image: &Path, archive: &Path) -> Result<Child> {
    let program = setup::find(QEMU).unwrap_or_else(|| PathBuf::from(QEMU));
    Command::new(program)
        .args(["-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-smp", "2", "-m", "1536"])
        .args(["-display", "none", "-nic", "none", "-no-reboot", "-serial", "stdio", "-monitor", "none"])
        .args(["-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(archive)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start qemu")
}

/// Hands the console on, line by line, until the machine says how it ended.
fn watch(mut machine: Child) -> Result<String> {
    let console = machine.stdout.take().context("qemu has no console")?;
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + DEADLINE;
    let mut seen: Vec<String> = Vec::new();
    let why = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("{line}");
                if let Some(code) = line.strip_prefix(END) {
                    // It powers off by itself; waiting for that proves nothing.
                    machine.kill()?;
                    machine.wait()?;
                    return Ok(code.trim().to_owned());
                }
                seen.push(line);
            }
            Err(RecvTimeoutError::Timeout) => break format!("the machine did not end within {DEADLINE:?}"),
            Err(RecvTimeoutError::Disconnected) => break "the machine ended before its tests did".to_owned(),
        }
    };
    machine.kill()?;
    machine.wait()?;
    bail!("{why}; its console ended with:\n{}", seen[seen.len().saturating_sub(LAST)..].join("\n"))
}
