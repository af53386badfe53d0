//! What the programs are told: sources, ports, exclusions, cgroups, lanes, and whether they drop.
//!
//! Owns: writing these maps in an order in which no moment is worse than before and after, and reading them back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mailsteer_core::model::{GuardSource, LaneId, SourceId};
use mailsteer_core::plan::GuardSpec;
use mailsteer_ebpf::{
    CGROUP_PATH, CGROUPS, CgroupEntry, FIRST_REFUSAL, LANE_NAME, LaneEntry, Settings, SourceEntry,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{BpfError, Programs, access};
use crate::bpf_maps::with_patience;

const SO_NETNS_COOKIE: libc::c_int = 71;
/// How many networks can be excluded.
const EXCLUDE_ROOM: usize = 4096;

/// A map of the object, as a type.
pub(super) fn map_of<'a, M>(object: &'a mut Ebpf, name: &'static str) -> Result<M, BpfError>
where
    M: TryFrom<&'a mut Map, Error = MapError>,
{
    let map = object.map_mut(name).ok_or(BpfError::Missing { what: "map", name })?;
    map.try_into().map_err(access(name))
}

impl Programs {
    /// Writes sources, then clears those that are no longer known.
    ///
    /// # Errors
    /// Where an id has no room, or the map cannot be written.
    pub fn set_sources(&mut self, set: &[GuardSource], clear: &[SourceId]) -> Result<(), BpfError> {
        let mut sources: Array<&mut MapData, SourceEntry> = map_of(&mut self.object, "SOURCES")?;
        for source in set {
            let entry = SourceEntry {
                addr: mapped(source.address).octets(),
                ifindex: source.ifindex.unwrap_or(0),
                reserved: 0,
            };
            sources.set(index(source.id)?, entry, 0).map_err(access("SOURCES"))?;
        }
        for id in clear {
            sources.set(index(*id)?, SourceEntry::default(), 0).map_err(access("SOURCES"))?;
        }
        Ok(())
    }

    /// The sources that the guard knows.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn sources(&mut self) -> Result<BTreeMap<SourceId, GuardSource>, BpfError> {
        let sources: Array<&mut MapData, SourceEntry> = map_of(&mut self.object, "SOURCES")?;
        let mut found = BTreeMap::new();
        for id in 1..FIRST_REFUSAL {
            let entry = sources.get(&id, 0).map_err(access("SOURCES"))?;
            if entry == SourceEntry::default() {
                continue;
            }
            let id = SourceId(u16::try_from(id).unwrap_or(u16::MAX));
            let ifindex = (entry.ifindex != 0).then_some(entry.ifindex);
            let address = Ipv6Addr::from(entry.addr).to_canonical();
            found.insert(id, GuardSource { id, address, ifindex });
        }
        Ok(found)
    }

    /// Tells the programs the rest. What widens who may leave is written before, what narrows it after the switch.
    ///
    /// # Errors
    /// Where there is no room, or a map cannot be written.
    pub fn set_guard(&mut self, spec: &GuardSpec) -> Result<(), BpfError> {
        let room = Settings::default().ports.len();
        check_room("ports", room, spec.ports.len())?;
        check_room("excluded networks", EXCLUDE_ROOM, spec.exclude.len())?;
        check_room("cgroups", CGROUPS as usize, spec.cgroups.len())?;
        self.write_lanes(spec)?;
        self.write_cgroups(&spec.cgroups)?;
        let wanted: BTreeSet<IpNet> = spec.exclude.iter().map(IpNet::trunc).collect();
        let standing = self.excluded()?;
        self.change_excluded(wanted.difference(&standing), true)?;
        let mut ports = [0; 8];
        for (place, port) in ports.iter_mut().zip(&spec.ports) {
            *place = *port;
        }
        let mut settings = self.settings()?;
        settings.ports = ports;
        settings.armed = u32::from(spec.armed);
        settings.cgroup_streams = u32::from(!spec.cgroups.is_empty());
        self.write_settings(settings)?;
        self.change_excluded(standing.difference(&wanted), false)
    }

    /// What the programs were told.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn guard(&mut self) -> Result<GuardSpec, BpfError> {
        let settings = self.settings()?;
        Ok(GuardSpec {
            ports: settings.ports.into_iter().filter(|port| *port != 0).collect(),
            exclude: self.excluded()?.into_iter().collect(),
            armed: settings.armed != 0,
            cgroups: if settings.cgroup_streams == 0 { Vec::new() } else { self.cgroup_paths()? },
            lanes: self.lanes()?,
        })
    }

    /// Looks up the cgroups' ids again: a service that was restarted has another. Returns paths that do not exist.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn refresh_cgroups(&mut self) -> Result<Vec<String>, BpfError> {
        let paths = self.cgroup_paths()?;
        let root = self.paths.cgroup.clone();
        let mut missing = Vec::new();
        let mut wanted = BTreeMap::new();
        for (index, path) in (0u32..).zip(paths) {
            match fs::metadata(root.join(path.trim_start_matches('/'))) {
                // Two streams may name one cgroup: the first wins, as everywhere.
                Ok(found) => drop(wanted.entry(found.ino()).or_insert(index)),
                Err(_) => missing.push(path),
            }
        }
        let mut ids: HashMap<&mut MapData, u64, u32> = map_of(&mut self.object, "CGROUPS")?;
        let standing: Vec<u64> = ids.keys().collect::<Result<_, _>>().map_err(access("CGROUPS"))?;
        for (id, index) in &wanted {
            ids.insert(id, index, 0).map_err(access("CGROUPS"))?;
        }
        for id in standing.iter().filter(|id| !wanted.contains_key(id)) {
            ids.remove(id).map_err(access("CGROUPS"))?;
        }
        Ok(missing)
    }

    /// Writes down which namespace is served, or finds that the pins serve another.
    pub(super) fn claim_namespace(&mut self) -> Result<(), BpfError> {
        let cookie = netns_cookie().map_err(BpfError::Namespace)?;
        let settings = self.settings()?;
        if settings.netns_cookie == cookie {
            return Ok(());
        }
        if settings.netns_cookie != 0 {
            return Err(BpfError::OtherNamespace { path: self.pins.clone() });
        }
        self.write_settings(Settings { netns_cookie: cookie, ..settings })
    }

    fn settings(&mut self) -> Result<Settings, BpfError> {
        let map: Array<&mut MapData, Settings> = map_of(&mut self.object, "SETTINGS")?;
        map.get(&0, 0).map_err(access("SETTINGS"))
    }

    fn write_settings(&mut self, settings: Settings) -> Result<(), BpfError> {
        let mut map: Array<&mut MapData, Settings> = map_of(&mut self.object, "SETTINGS")?;
        map.set(0, settings, 0).map_err(access("SETTINGS"))
    }

    fn excluded(&mut self) -> Result<BTreeSet<IpNet>, BpfError> {
        let trie: LpmTrie<&mut MapData, [u8; 16], u32> = map_of(&mut self.object, "EXCLUDE")?;
        trie.keys().map(|key| key.map(network).map_err(access("EXCLUDE"))).collect()
    }

    fn change_excluded<'a>(
        &mut self,
        networks: impl Iterator<Item = &'a IpNet>,
        add: bool,
    ) -> Result<(), BpfError> {
        let mut trie: LpmTrie<&mut MapData, [u8; 16], u32> = map_of(&mut self.object, "EXCLUDE")?;
        for network in networks {
            let key = trie_key(network);
            if add { with_patience(|| trie.insert(&key, 1, 0)) } else { trie.remove(&key) }
                .map_err(access("EXCLUDE"))?;
        }
        Ok(())
    }

    fn write_cgroups(&mut self, paths: &[String]) -> Result<(), BpfError> {
        let mut map: Array<&mut MapData, CgroupEntry> = map_of(&mut self.object, "CGROUP_PATHS")?;
        for index in 0..CGROUPS {
            let path = paths.get(index as usize).map_or(&[][..], String::as_bytes);
            check_room("bytes of a cgroup's path", CGROUP_PATH - 1, path.len())?;
            map.set(index, CgroupEntry { path: padded(path) }, 0).map_err(access("CGROUP_PATHS"))?;
        }
        self.refresh_cgroups().map(drop)
    }

    fn cgroup_paths(&mut self) -> Result<Vec<String>, BpfError> {
        let map: Array<&mut MapData, CgroupEntry> = map_of(&mut self.object, "CGROUP_PATHS")?;
        let mut paths = Vec::new();
        for index in 0..CGROUPS {
            let entry = map.get(&index, 0).map_err(access("CGROUP_PATHS"))?;
            let path = until_nul(&entry.path);
            if path.is_empty() {
                break;
            }
            paths.push(path);
        }
        Ok(paths)
    }

    fn write_lanes(&mut self, spec: &GuardSpec) -> Result<(), BpfError> {
        let mut map: Array<&mut MapData, LaneEntry> = map_of(&mut self.object, "LANES")?;
        for id in 0..=u8::MAX {
            let name = spec
                .lanes
                .get(&LaneId(id))
                .map(|(stream, provider)| format!("{stream}\0{provider}"))
                .unwrap_or_default();
            check_room("bytes of a lane's name", LANE_NAME - 1, name.len())?;
            let entry = LaneEntry { name: padded(name.as_bytes()) };
            map.set(u32::from(id), entry, 0).map_err(access("LANES"))?;
        }
        Ok(())
    }

    fn lanes(&mut self) -> Result<BTreeMap<LaneId, (String, String)>, BpfError> {
        let map: Array<&mut MapData, LaneEntry> = map_of(&mut self.object, "LANES")?;
        let mut lanes = BTreeMap::new();
        for id in 0..=u8::MAX {
            let entry = map.get(&u32::from(id), 0).map_err(access("LANES"))?;
            let stream = until_nul(&entry.name);
            if !stream.is_empty() {
                let provider = until_nul(&entry.name[stream.len() + 1..]);
                lanes.insert(LaneId(id), (stream, provider));
            }
        }
        Ok(lanes)
    }
}

fn check_room(what: &'static str, room: usize, wanted: usize) -> Result<(), BpfError> {
    if wanted > room { Err(BpfError::TooMany { what, room, wanted }) } else { Ok(()) }
}

fn index(id: SourceId) -> Result<u32, BpfError> {
    check_room("sources", FIRST_REFUSAL as usize - 1, usize::from(id.0))?;
    Ok(u32::from(id.0))
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn trie_key(network: &IpNet) -> Key<[u8; 16]> {
    let longer = if matches!(network, IpNet::V4(_)) { 96 } else { 0 };
    Key::new(longer + u32::from(network.prefix_len()), mapped(network.network()).octets())
}

fn network(key: Key<[u8; 16]>) -> IpNet {
    let address = Ipv6Addr::from(key.data());
    let length = u8::try_from(key.prefix_len()).unwrap_or(128);
    match (address.to_ipv4_mapped(), length.checked_sub(96)) {
        (Some(address), Some(length)) => Ipv4Net::new_assert(address, length.min(32)).into(),
        _ => Ipv6Net::new_assert(address, length.min(128)).into(),
    }
}

fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut all = [0; N];
    for (place, byte) in all.iter_mut().zip(bytes) {
        *place = *byte;
    }
    all
}

fn until_nul(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The cookie of the network namespace this thread is in.
fn netns_cookie() -> io::Result<u64> {
    use std::os::fd::AsRawFd as _;
    let probe = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option's value is eight bytes, and so is `cookie`.
    let code = unsafe {
        libc::getsockopt(
            probe.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if code == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
