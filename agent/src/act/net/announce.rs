//! Tells the neighbours where an address is now: gratuitous ARP, unsolicited neighbour advertisement.
//!
//! Owns: these packets. Must not: announce tags, or anything on an interface without neighbours.
//!
//! Three rounds, one second apart, as RFC 4861 has it for advertisements (MAX_NEIGHBOR_ADVERTISEMENT): a single
//! packet may be lost. ARP goes out both as request and as reply, since some routers heed only the one and some only
//! the other. Nobody waits for any round but the first of ARP: an IPv6 address must not be advertised before duplicate
//! address detection has finished (RFC 4862 section 5.4), and all rounds wait for that in the background.

use std::fs;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::device::Device;
use crate::netlink::NetError;

const ROUNDS: usize = 3;
const APART: Duration = Duration::from_secs(1);
/// How long to wait for duplicate address detection. It takes one second after a random delay of up to one, and begins
/// when the link has a carrier.
const DAD: Duration = Duration::from_secs(30);
const DAD_POLL: Duration = Duration::from_millis(200);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;

/// Announcements under way; they end with this value.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    rounds: JoinSet<()>,
    /// One packet socket for all ARP. Closing one waits for an RCU grace period, 15 to 20 ms, which for a thousand
    /// addresses is 20 s.
    arp: Option<Arc<Socket>>,
}

impl Announcer {
    /// Starts telling the neighbours; the first round of ARP is out when this returns.
    pub(super) fn announce(&mut self, device: &Device, address: IpAddr) -> Result<(), NetError> {
        let Some(hardware) = device.hardware else { return Ok(()) };
        // Rounds that are over.
        while self.rounds.try_join_next().is_some() {}
        let what = format!("announcing {address} on {}", device.name);
        let neighbour = match address {
            IpAddr::V4(address) => {
                let arp = self.arp().map_err(|source| NetError::of(&what, source))?;
                Told::ByArp(arp, address)
            }
            IpAddr::V6(address) => Told::ByAdvertisement(address),
        };
        if address.is_ipv4() {
            round(device, hardware, &neighbour).map_err(|source| NetError::of(&what, source))?;
        }
        let device = device.clone();
        self.rounds.spawn(async move {
            if let Err(error) = in_background(&device, hardware, &neighbour).await {
                tracing::warn!(%error, "{what}");
            }
        });
        Ok(())
    }

    /// Ends all that are under way.
    pub(super) fn end(&mut self) {
        self.rounds.abort_all();
    }

    fn arp(&mut self) -> io::Result<Arc<Socket>> {
        if let Some(socket) = &self.arp {
            return Ok(Arc::clone(socket));
        }
        // Protocol 0: this socket only sends.
        let socket = Arc::new(Socket::new(Domain::PACKET, Type::DGRAM, None)?);
        Ok(Arc::clone(self.arp.insert(socket)))
    }
}

/// How neighbours are told of an address.
enum Told {
    ByArp(Arc<Socket>, Ipv4Addr),
    ByAdvertisement(Ipv6Addr),
}

/// All rounds but the first of ARP. An address that is gone, or that another host has, is not announced: observation
/// says so of the source.
async fn in_background(device: &Device, hardware: [u8; 6], told: &Told) -> io::Result<()> {
    if matches!(told, Told::ByAdvertisement(_)) && !first_advertised(device, hardware, told).await? {
        return Ok(());
    }
    for _ in 1..ROUNDS {
        tokio::time::sleep(APART).await;
        match round(device, hardware, told) {
            Err(error) if not_usable(&error) => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

/// Sends the first advertisement as soon as the kernel lets a socket bind to the address, which it does when duplicate
/// address detection has found no other owner. False: it never did.
async fn first_advertised(device: &Device, hardware: [u8; 6], told: &Told) -> io::Result<bool> {
    let deadline = Instant::now() + DAD;
    loop {
        match round(device, hardware, told) {
            Err(error) if not_usable(&error) && Instant::now() < deadline => {
                tokio::time::sleep(DAD_POLL).await;
            }
            Err(error) if not_usable(&error) => return Ok(false),
            other => return other.map(|()| true),
        }
    }
}

/// The kernel lets nobody bind to an address that is tentative, that failed duplicate address detection or that is
/// gone; and nothing can be sent on a link that is down.
fn not_usable(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENETDOWN | libc::ENETUNREACH))
}

fn round(device: &Device, hardware: [u8; 6], told: &Told) -> io::Result<()> {
    match told {
        Told::ByArp(socket, address) => arp(socket, device.index, hardware, *address),
        Told::ByAdvertisement(address) => advertise(device, hardware, *address),
    }
}

fn arp(socket: &Socket, ifindex: u32, hardware: [u8; 6], address: Ipv4Addr) -> io::Result<()> {
    let everyone = link_broadcast(ifindex)?;
    for operation in [ARP_REQUEST, ARP_REPLY] {
        socket.send_to(&arp_packet(operation, hardware, address), &everyone)?;
    }
    Ok(())
}

fn arp_packet(operation: u8, hardware: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let target = if operation == ARP_REPLY { [0xff; 6] } else { [0; 6] };
    // Ethernet, IPv4, lengths 6 and 4.
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
    packet.extend(hardware);
    packet.extend(address.octets());
    packet.extend(target);
    packet.extend(address.octets());
    packet
}

fn link_broadcast(ifindex: u32) -> io::Result<SockAddr> {
    let index = i32::try_from(ifindex).map_err(io::Error::other)?;
    let fill = |storage: *mut socket2::SockAddrStorage, length: *mut libc::socklen_t| {
        let mut address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET.cast_unsigned() as u16,
            sll_protocol: (libc::ETH_P_ARP.cast_unsigned() as u16).to_be(),
            sll_ifindex: index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        address.sll_addr[..6].fill(0xff);
        // SAFETY: the storage is aligned for, and larger than, every socket address.
        unsafe { storage.cast::<libc::sockaddr_ll>().write(address) };
        // SAFETY: `length` is a valid place to write to for as long as this closure runs.
        unsafe { length.write(mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
        Ok(())
    };
    // SAFETY: the closure writes a whole sockaddr_ll and its length.
    unsafe { SockAddr::try_init(fill) }.map(|((), address)| address)
}

fn advertise(device: &Device, hardware: [u8; 6], address: Ipv6Addr) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.bind_device_by_index_v6(NonZeroU32::new(device.index))?;
    socket.bind(&SocketAddrV6::new(address, 0, 0, device.index).into())?;
    socket.set_multicast_if_v6(device.index)?;
    // Receivers drop neighbour discovery that may have passed a router.
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_loop_v6(false)?;
    let packet = advertisement(forwards(device), hardware, address);
    socket.send_to(&packet, &SocketAddrV6::new(ALL_NODES, 0, 0, device.index).into())?;
    Ok(())
}

/// A router that does not say so is dropped from its neighbours' default routers.
fn forwards(device: &Device) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{}/forwarding", device.name);
    fs::read_to_string(path).is_ok_and(|value| value.trim() == "1")
}

/// The kernel fills in the checksum.
fn advertisement(router: bool, hardware: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let flags = 0x20 | if router { 0x80 } else { 0 };
    let mut packet = vec![136, 0, 0, 0, flags, 0, 0, 0];
    packet.extend(address.octets());
    // Target link-layer address, in units of eight bytes.
    packet.extend([2, 1]);
    packet.extend(hardware);
    packet
}
