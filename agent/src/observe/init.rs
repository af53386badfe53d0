//! Reads a host for `mailsteer init`: the network, users, MTAs, the host's name.
//!
//! Owns: reading. Must not: decide what of it stands in a config. Needs no privileges.

use std::net::IpAddr;
use std::path::Path;

use mailsteer_core::doctor::parse;
use mailsteer_core::init::{Facts, MatchBy, Mta};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use crate::netlink::{self, Connection, NetError, address_of};
use crate::observe::net::snapshot;

/// An MTA: name, what configures it, the users that it may connect as.
const MTAS: [(&str, &[&str], &[&str]); 3] = [
    ("postfix", &["/etc/postfix/main.cf"], &["postfix"]),
    (
        "exim",
        &["/etc/exim4/exim4.conf.template", "/etc/exim4/exim4.conf", "/etc/exim/exim.conf"],
        &["Debian-exim", "exim", "mailnull"],
    ),
    (
        "opensmtpd",
        &["/etc/smtpd.conf", "/etc/mail/smtpd.conf", "/etc/opensmtpd/smtpd.conf"],
        &["opensmtpd", "_smtpd", "smtpd"],
    ),
];
/// Sendmail connects as root.
const SENDMAIL: (&str, &str) = ("/etc/mail/sendmail.cf", "system.slice/sendmail.service");

/// Looks at this host; `root` holds its `/etc`.
///
/// # Errors
/// When the network cannot be read: without it there is nothing to write.
pub async fn look(root: &Path) -> Result<Facts, NetError> {
    let connection = Connection::open()?;
    let handle = connection.handle();
    let host = snapshot(handle).await?;
    let passing = netlink::addresses(handle, None).await?.iter().filter_map(passing).collect();
    Ok(Facts { host, passing, mtas: mtas(root), name: name(root) })
}

/// An IPv6 address that is not permanent. IPv4 addresses by DHCP are leased too, and stay in practice.
pub(crate) fn passing(message: &AddressMessage) -> Option<IpAddr> {
    let flags = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    let address = address_of(message)?.address;
    let stays = flags.is_none_or(|flags| flags.contains(AddressFlags::Permanent));
    (address.is_ipv6() && !stays).then_some(address)
}

fn text(root: &Path, file: &str) -> Option<String> {
    let bytes = std::fs::read(root.join(file.trim_start_matches('/'))).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn mtas(root: &Path) -> Vec<Mta> {
    let users = parse::accounts(&text(root, "/etc/passwd").unwrap_or_default());
    let there = |file: &str| root.join(file.trim_start_matches('/')).exists();
    let mut found: Vec<Mta> = vec![];
    for (name, files, accounts) in MTAS {
        let file = files.iter().find(|file| there(file));
        let user =
            accounts.iter().find(|account| users.iter().any(|(name, id)| name == *account && *id != 0));
        if let (Some(file), Some(user)) = (file, user) {
            found.push(Mta {
                name: name.to_owned(),
                evidence: (*file).to_owned(),
                by: MatchBy::User((*user).to_owned()),
            });
        }
    }
    if there(SENDMAIL.0) {
        found.push(Mta {
            name: "sendmail".to_owned(),
            evidence: SENDMAIL.0.to_owned(),
            by: MatchBy::Cgroup(SENDMAIL.1.to_owned()),
        });
    }
    found
}

/// The name that the MTA says, else the host's own where it is a full one.
fn name(root: &Path) -> Option<String> {
    let postfix = text(root, "/etc/postfix/main.cf").and_then(|text| {
        let value = parse::setting(&[&text], "myhostname").map(str::to_owned);
        value.filter(|value| !value.contains('$'))
    });
    let first_line =
        |file: &str| text(root, file).and_then(|text| Some(text.lines().next()?.trim().to_owned()));
    let full = |name: &String| name.contains('.');
    postfix
        .or_else(|| first_line("/etc/hostname").filter(full))
        .or_else(|| first_line("/etc/mailname").filter(full))
}
