//! One Postfix instance's files: Debian's, and what ties them to the lab.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::Settings;
use crate::lab::Lab;
use crate::mta::{Files, HOSTNAME, SUBMIT};

/// Postfix's user, and its group, in the instance's own /etc/passwd.
pub const UID: u32 = 20_101;
/// The group of the drop directory.
const POSTDROP: u32 = 20_102;

/// Writes the instance's files.
pub(super) fn files(lab: &Lab, settings: &Settings) -> Result<Files> {
    let root = super::unpack()?;
    let files = Files::new(lab, "postfix", &root, &[("postfix", UID)], &[("postdrop", POSTDROP)])?;
    files.make("etc/postfix")?;
    files.make_for("var/lib/postfix", UID)?;
    // What the chrooted daemons see; Debian's start script copies the same files there.
    files.resolver("var/spool/postfix/etc")?;
    write_config(&files.path("etc/postfix"), &root, settings)?;
    for (name, text) in &settings.files {
        let at = format!("etc/postfix/{name}");
        if files.path(&at).is_file() { files.add(&at, text)? } else { files.write(&at, text)? }
    }
    // Each of its programs waits while a main.cf was written a moment ago: it may not be whole yet.
    let main = File::options().append(true).open(files.path("etc/postfix/main.cf"))?;
    main.set_modified(SystemTime::now() - Duration::from_mins(1))?;
    Ok(files)
}

fn write_config(etc: &Path, root: &Path, settings: &Settings) -> Result<()> {
    // Only what ties the instance to the lab: names, the place of the log, the routes.
    let mut main = fs::read_to_string(root.join("usr/share/postfix/main.cf.debian"))?;
    main.push_str(&format!("myhostname = {HOSTNAME}\nmydestination = localhost\nalias_maps =\n"));
    if !settings.by_syslog {
        main.push_str("maillog_file = /var/log/mail.log\n");
    }
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
    // As the package's script does, for more instances.
    for file in ["main.cf", "master.cf"] {
        fs::copy(root.join(format!("usr/share/postfix/{file}.dist")), etc.join(format!("{file}.proto")))?;
    }
    for script in ["postfix-script", "post-install"] {
        fs::copy(root.join("etc/postfix").join(script), etc.join(script))?;
    }
    Ok(())
}
