//! One Postfix instance: its /etc and /var as layers over the machine's, in a mount namespace of its own.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::{SUBMIT, Settings};
use crate::topology::DNS;

/// Postfix's user, and its group, in the instance's own /etc/passwd.
pub const UID: u32 = 20_101;
/// The group of the drop directory.
const POSTDROP: u32 = 20_102;

/// Writes the instance's files.
pub(super) fn write(dir: &Path, settings: &Settings) -> Result<()> {
    for made in [
        "usr.work",
        "etc/postfix",
        "etc.work",
        "var/spool/postfix/etc",
        "var/lib/postfix",
        "var/log",
        "var.work",
    ] {
        fs::create_dir_all(dir.join(made))?;
    }
    // The lab's directory is in the way of Postfix's own user.
    for open in [dir, dir.parent().unwrap_or(dir)] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o755))?;
    }
    chown(dir.join("var/lib/postfix"), Some(UID), Some(UID))?;
    let resolv = format!("nameserver {DNS}\noptions timeout:2\n");
    let hosts = "127.0.0.1 localhost\n::1 localhost\n";
    let nsswitch = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n";
    // The second place is what the chrooted daemons see; Debian's start script copies the same files there.
    for etc in ["etc", "var/spool/postfix/etc"] {
        let services = fs::read("/etc/services").unwrap_or_else(|_| b"smtp 25/tcp\ndomain 53/udp\n".to_vec());
        fs::write(dir.join(etc).join("services"), services)?;
        for (name, text) in [("resolv.conf", resolv.as_str()), ("hosts", hosts), ("nsswitch.conf", nsswitch)]
        {
            fs::write(dir.join(etc).join(name), text)?;
        }
    }
    let passwd = fs::read_to_string("/etc/passwd")?;
    let postfix = format!("postfix:x:{UID}:{UID}::/var/spool/postfix:/usr/sbin/nologin\n");
    fs::write(dir.join("etc/passwd"), passwd + &postfix)?;
    let group = fs::read_to_string("/etc/group")?;
    fs::write(dir.join("etc/group"), format!("{group}postfix:x:{UID}:\npostdrop:x:{POSTDROP}:\n"))?;
    write_config(&dir.join("etc/postfix"), settings)
}

fn write_config(etc: &Path, settings: &Settings) -> Result<()> {
    let root = super::unpack()?;
    // Only what ties the instance to the lab: names, the place of the log, the routes.
    let mut main = fs::read_to_string(root.join("usr/share/postfix/main.cf.debian"))?;
    main.push_str(
        "myhostname = mail.example.com\nmydestination = localhost\nalias_maps =\nmaillog_file = /var/log/mail.log\n",
    );
    if !settings.routes.is_empty() {
        main.push_str("transport_maps = texthash:/etc/postfix/transport\n");
    }
    for line in &settings.main {
        main.push_str(&format!("{line}\n"));
    }
    fs::write(etc.join("main.cf"), main)?;
    let master = fs::read_to_string(root.join("usr/share/postfix/master.cf.dist"))?;
    let mut master = master.replacen("\nsmtp      inet", &format!("\n{SUBMIT} inet"), 1);
    for (name, bind) in &settings.transports {
        master.push_str(&format!("{name} unix - - y - - smtp\n  -o syslog_name=postfix-{name}\n"));
        for address in bind.split_whitespace() {
            let option = if address.contains(':') { "smtp_bind_address6" } else { "smtp_bind_address" };
            master.push_str(&format!("  -o {option}={address}\n"));
        }
    }
    fs::write(etc.join("master.cf"), master)?;
    let routes: String = settings.routes.iter().map(|(domain, to)| format!("{domain} {to}:\n")).collect();
    fs::write(etc.join("transport"), routes)?;
    for file in ["postfix-files", "dynamicmaps.cf"] {
        if let Some(from) =
            ["etc/postfix", "usr/share/postfix"].iter().map(|d| root.join(d).join(file)).find(|p| p.is_file())
        {
            fs::copy(from, etc.join(file))?;
        }
    }
    for script in ["postfix-script", "post-install"] {
        fs::copy(root.join("etc/postfix").join(script), etc.join(script))?;
    }
    Ok(())
}

/// A mount namespace that shows the instance's files at their stock places.
///
/// One for all commands: two overlays over the same files would not see each other's locks.
pub(super) fn mounts(dir: &Path, packages: &Path) -> Result<File> {
    let layers = [
        ("/usr", format!("lowerdir={}:/usr", packages.join("usr").display())),
        ("/etc", layer(dir, "etc")),
        ("/var", layer(dir, "var")),
    ];
    thread::scope(|scope| {
        scope
            .spawn(|| -> Result<File> {
                // Takes this thread's view of the file system apart from the process's.
                unshare(CloneFlags::CLONE_NEWNS)?;
                let none = None::<&str>;
                mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
                for (at, options) in &layers {
                    mount(Some("overlay"), *at, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
                        .with_context(|| format!("an overlay over {at}"))?;
                }
                Ok(File::open("/proc/thread-self/ns/mnt")?)
            })
            .join()
            .map_err(|_| anyhow!("the thread that mounts panicked"))?
    })
}

/// Lets a command run in it.
pub(super) fn enter(mounts: &File, command: &mut Command) -> Result<()> {
    let mounts = mounts.try_clone()?;
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(move || setns(&mounts, CloneFlags::CLONE_NEWNS).map_err(std::io::Error::from));
    }
    Ok(())
}

fn layer(dir: &Path, name: &str) -> String {
    let upper = dir.join(name);
    format!("lowerdir=/{name},upperdir={},workdir={}.work", upper.display(), upper.display())
}
