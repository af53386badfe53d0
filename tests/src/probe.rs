//! Single connections, and the address that the other end sees.
//!
//! Owns: asking. Must not: judge what is seen.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::lab::Lab;
use crate::load::{Load, Report};
use crate::netns::NetNs;
use crate::receiver::Receiver;

/// Who connects.
#[derive(Clone, Debug)]
pub struct Asker {
    ns: NetNs,
    cgroup: Option<PathBuf>,
    uid: u32,
    bind: Option<IpAddr>,
}

impl Asker {
    /// A process of this user on the mail host.
    ///
    /// # Errors
    /// After the lab was closed.
    pub fn on_host(lab: &Lab, uid: u32) -> Result<Self> {
        Ok(Self {
            ns: lab.mail.clone(),
            cgroup: Some(lab.cgroup()?.to_owned()),
            uid: lab.mail.uid(uid),
            bind: None,
        })
    }

    /// A process in a container.
    #[must_use]
    pub fn in_container(lab: &Lab, n: usize) -> Self {
        Self { ns: lab.containers[n].clone(), cgroup: None, uid: 65534, bind: None }
    }

    /// One that binds this address first, such as a tag.
    #[must_use]
    pub fn bound_to(self, address: IpAddr) -> Self {
        Self { bind: Some(address), ..self }
    }

    /// The load that it makes: `count` connections, one after the other as fast as `rate` says.
    #[must_use]
    pub fn load(&self, rate: u32, count: u64, to: Vec<IpAddr>) -> Load {
        let cgroup = self.cgroup.clone();
        Load { rate, count, uid: self.uid, gid: self.uid, bind: self.bind, to, cgroup, ..Load::default() }
    }

    /// Connects in turn to these and says what came of it.
    ///
    /// # Errors
    /// When the load program fails.
    pub fn connect(&self, count: u64, to: Vec<IpAddr>) -> Result<Report> {
        self.load(100, count, to).run(&self.ns)
    }

    /// The address that `receiver` sees one connection come from.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn seen_by(&self, receiver: &Receiver, to: IpAddr) -> Result<IpAddr> {
        let before = receiver.count();
        let report = self.connect(1, vec![to])?;
        if report.ok != 1 {
            bail!("{self:?} to {to}: {:?}", report.failed);
        }
        let connections = receiver.connections();
        let new = connections.get(before..).unwrap_or_default();
        let seen = new.iter().find(|one| one.to == to).map(|one| one.peer.ip());
        seen.with_context(|| format!("{self:?} to {to}: the receiver did not see it"))
    }

    /// The addresses that `receiver` sees `count` connections come from; every one of them has to succeed.
    ///
    /// # Errors
    /// When one fails.
    pub fn sources(&self, receiver: &Receiver, count: u64, to: IpAddr) -> Result<BTreeSet<IpAddr>> {
        let before = receiver.count();
        let report = self.connect(count, vec![to])?;
        if report.ok != count {
            bail!("{self:?} to {to}: {report:?}");
        }
        Ok(receiver.connections().iter().skip(before).map(|one| one.peer.ip()).collect())
    }
}

/// How the kernel would route to an address, and from which source: `via`, `dev` and `src` of `ip route get`.
///
/// # Errors
/// When there is no route.
pub fn route(ns: &NetNs, to: IpAddr) -> Result<String> {
    let answer: serde_json::Value = serde_json::from_str(&ns.sh(&format!("ip -j route get {to}"))?)?;
    let words = ["gateway", "dev", "prefsrc"].map(|key| answer[0][key].as_str().unwrap_or("-").to_owned());
    Ok(words.join(" "))
}
