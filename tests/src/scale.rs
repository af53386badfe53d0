//! What the number of sources costs: one run in a lab of its own, from the agent's start to its idling.
//!
//! Owns: the config of that size, and how each figure is taken. Must not: judge; `cargo xtask bench scale` does.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::agent::{Agent, METRICS};
use crate::lab::Lab;
use crate::load::{Load, Running};
use crate::netns::NetNs;
use crate::poll;
use crate::receiver::Receiver;
use crate::scene::MAIL;
use crate::topology::{Options, receiver4, uplinks};

/// First addresses of the sources of each uplink, each in a /20 of its own; 128.66.0.0/16 is nobody's.
const NETWORKS: [Ipv4Addr; 2] = [Ipv4Addr::new(128, 66, 0, 0), Ipv4Addr::new(128, 66, 16, 0)];
/// A range of a config stands for no more addresses.
const RANGE: u32 = 1000;
/// Connections per second while times are taken: one every 5 ms, so no time is known better than that.
const RATE: u32 = 200;
/// How long any one step may take.
const LONG: Duration = Duration::from_secs(120);

/// Figures by name: seconds (`_s`), MiB (`_mib`), per cent of a core (`_percent`).
pub type Figures = BTreeMap<String, f64>;

/// A running agent of one size.
struct Size {
    agent: Agent,
    receiver: Receiver,
    lab: Lab,
    sources: u32,
}

/// Takes every figure once.
///
/// # Errors
/// When the lab cannot be had, a step does not take effect, or something stays behind.
pub fn measure(sources: u32, idle_seconds: u64) -> Result<Figures> {
    let mut figures = Figures::new();
    let (size, load) = Size::start(sources, &mut figures)?;
    figures.insert("reload_s".into(), size.time(|size| size.agent.reload(&config(size.sources, true)))?);
    figures.insert("suspend_one_s".into(), size.time(|size| size.operate("suspend"))?);
    size.operate("resume")?;
    figures.insert("uplink_down_s".into(), size.uplink_down()?);
    load.stop()?;
    size.use_every_source()?;
    size.memory(&mut figures)?;
    if idle_seconds > 0 {
        figures.insert("idle_cpu_percent".into(), size.idle_cpu(Duration::from_secs(idle_seconds))?);
    }
    size.close()?;
    Ok(figures)
}

impl Size {
    /// From the start of the process to the first connection that leaves from a source.
    fn start(sources: u32, figures: &mut Figures) -> Result<(Self, Running)> {
        let lab = Lab::new(Options { uplinks: 2, ipv6: false, ..Options::default() })?;
        way_back(&lab.world, 0)?;
        way_back(&lab.world, 1)?;
        let receiver = Receiver::start(&lab.world, 25)?;
        let cgroup = Some(lab.cgroup()?.to_owned());
        let to = (1..=50).map(receiver4).collect();
        let load = Load { rate: RATE, count: 0, uid: MAIL, gid: MAIL, to, cgroup, ..Load::default() };
        let load = load.start(&lab.mail)?;
        let config = config(sources, false);
        let began = Instant::now();
        let agent = Agent::launch(&lab, Some(&config))?;
        let size = Self { agent, receiver, lab, sources };
        let first = poll::until(LONG, "a connection from a source", || {
            let connections = size.receiver.connections();
            Ok(connections.iter().find(|one| is_source(one.peer.ip())).map(|one| one.at))
        })?;
        figures.insert("start_s".into(), (first - began).as_secs_f64());
        size.eligible(sources)?;
        Ok((size, load))
    }

    fn time(&self, work: impl FnOnce(&Self) -> Result<()>) -> Result<f64> {
        let began = Instant::now();
        work(self)?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// The command answers when it has taken effect.
    fn operate(&self, verb: &str) -> Result<()> {
        let answer = self.agent.cli(&[verb, "main-1", "--reason", "bench"])?;
        if !answer.status.success() {
            bail!("{verb}: {}", String::from_utf8_lossy(&answer.stderr));
        }
        Ok(())
    }

    /// From an uplink's losing its carrier until the pass that followed it is published; then back.
    fn uplink_down(&self) -> Result<f64> {
        self.lab.world.sh("ip link set wa down")?;
        // Of an odd number the other uplink has one more.
        let took = self.time(|size| size.eligible(size.sources.div_ceil(2)))?;
        self.lab.world.sh("ip link set wa up")?;
        way_back(&self.lab.world, 0)?;
        self.eligible(self.sources)?;
        Ok(took)
    }

    /// Waits until that many sources may serve.
    fn eligible(&self, count: u32) -> Result<()> {
        poll::until(LONG, &format!("{count} eligible sources"), || {
            let eligible = self.agent.metric(METRICS, "mailsteer_pool_eligible", &["tier=\"primary\""])?;
            Ok((eligible == f64::from(count)).then_some(()))
        })
    }

    /// Every source gets its counters, as on a host that has run for long.
    fn use_every_source(&self) -> Result<()> {
        let cgroup = Some(self.lab.cgroup()?.to_owned());
        let to = (1..=50).map(receiver4).collect();
        let count = u64::from(self.sources);
        Load { rate: 500, count, uid: MAIL, gid: MAIL, to, cgroup, ..Load::default() }.run(&self.lab.mail)?;
        Ok(())
    }

    fn memory(&self, figures: &mut Figures) -> Result<()> {
        let pid = self.agent.pid().context("no agent")?;
        for (name, kib) in resident(&fs::read_to_string(format!("/proc/{pid}/smaps"))?)? {
            figures.insert(name.into(), kib / 1024.0);
        }
        let mut maps = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // A descriptor may be closed meanwhile; maps stay open.
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
            if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
                maps.insert(id.to_owned(), bytes.parse::<f64>()?);
            }
        }
        figures.insert("bpf_maps_mib".into(), maps.values().sum::<f64>() / 1024.0 / 1024.0);
        Ok(())
    }

    /// Share of a core that the agent takes while nothing happens.
    fn idle_cpu(&self, during: Duration) -> Result<f64> {
        let (began, before) = (Instant::now(), self.cpu_seconds()?);
        poll::until_true(during * 2, "the time to pass", || began.elapsed() >= during)?;
        Ok((self.cpu_seconds()? - before) / began.elapsed().as_secs_f64() * 100.0)
    }

    /// User and system time of all its threads.
    fn cpu_seconds(&self) -> Result<f64> {
        let pid = self.agent.pid().context("no agent")?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> =
            stat.rsplit_once(')').context("no name in stat")?.1.split_whitespace().collect();
        // Fields 14 and 15 of proc(5), in ticks of 10 ms.
        let ticks = [11, 12].iter().map(|&at| Ok(fields.get(at).context("stat is short")?.parse::<f64>()?));
        Ok(ticks.sum::<Result<f64>>()? / 100.0)
    }

    fn close(self) -> Result<()> {
        let Self { agent, receiver, lab, .. } = self;
        drop(agent);
        receiver.stop()?;
        lab.close()
    }
}

/// The world's way back to the sources of an uplink: routed to the host, as hosters do, so that no table of neighbours
/// overflows.
fn way_back(world: &NetNs, uplink: usize) -> Result<()> {
    let (network, host) = (NETWORKS[uplink], uplinks()[uplink].own4);
    world.sh(&format!("ip route replace {network}/20 via {host}")).map(drop)
}

/// KiB that are resident, eBPF maps that are mapped apart: a ring buffer's are mapped twice, and counted so.
fn resident(smaps: &str) -> Result<BTreeMap<&'static str, f64>> {
    let mut sums = BTreeMap::from([("rss_mib", 0.0), ("pss_mib", 0.0)]);
    let mut is_map = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let name = match first {
            "Rss:" => "rss_mib",
            "Pss:" => "pss_mib",
            // The head of the next mapping: a range of addresses, and last what it maps.
            range if !range.ends_with(':') => {
                is_map = line.ends_with("bpf-map");
                continue;
            }
            _ => continue,
        };
        if !is_map && let Some(sum) = sums.get_mut(name) {
            *sum += words.next().context("no number")?.parse::<f64>()?;
        }
    }
    Ok(sums)
}

fn is_source(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[..2] == [128, 66])
}

/// Half of the sources at each uplink, one pool, one stream; `more`: and another stream.
fn config(sources: u32, more: bool) -> String {
    let mut text = "mode = \"enforce\"\n".to_owned();
    let uplinks = [("a", "upa", "192.0.2"), ("b", "upb", "198.51.100")];
    let mut addresses = Vec::new();
    for (n, (network, (name, interface, net))) in NETWORKS.into_iter().zip(uplinks).enumerate() {
        text.push_str(&format!(
            "[uplink.{name}]\ninterface = \"{interface}\"\ngateway = \"{net}.1\"\nprefix = [\"{net}.0/25\", \
             \"{network}/20\"]\n"
        ));
        // Of an odd number the second uplink has one more.
        let count = if n == 0 { sources / 2 } else { sources.div_ceil(2) };
        let first = u32::from(network) + 1;
        addresses.extend((0..count).step_by(RANGE as usize).map(|from| {
            let last = (from + RANGE).min(count) - 1;
            format!("\"{}-{}\"", Ipv4Addr::from(first + from), Ipv4Addr::from(first + last))
        }));
    }
    text.push_str(&format!(
        "[pool.main]\naddresses = [{}]\n[stream.mail]\nuid = {MAIL}\npool = \"main\"\n",
        addresses.join(", ")
    ));
    if more {
        text.push_str("[stream.more]\nuid = 1002\npool = \"main\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::resident;

    #[test]
    fn maps_are_no_part_of_the_memory() {
        let smaps = "00-10 rw-p 00000000 00:00 0 [heap]\nRss: 8 kB\nPss: 6 kB\nPss_Dirty: 5 kB\n\
                     10-20 rw-s 00000000 00:0e 9 anon_inode:bpf-map\nRss: 100 kB\nPss: 50 kB\n\
                     20-30 r-xp 00000000 fe:00 7 /usr/bin/mailsteer\nRss: 2 kB\nPss: 1 kB\n";
        let found = resident(smaps).unwrap_or_default();
        assert_eq!((found.get("rss_mib"), found.get("pss_mib")), (Some(&10.0), Some(&7.0)));
    }
}
