//! A point-to-point link: two tun devices, and a pump that carries the packets of each to the other.
//!
//! Owns: the devices and the pump; both end with the value. Must not: give addresses or routes. tun is all that a
//! kernel without modules has of links without Ethernet headers, and to the hooks it is what ppp is.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::NetNs;

/// More than any packet of the lab.
const PACKET: usize = 65_536;
/// Packets from one end before the other has its turn.
const TURN: usize = 64;
/// Packets that the kernel keeps for the pump: enough that a busy machine loses none.
const QUEUE: usize = 20_000;

/// The link; dropping it hangs up, and both devices are gone.
#[derive(Debug)]
pub struct Tunnel {
    /// Closed to end the pump.
    running: Option<UnixStream>,
    pump: Option<JoinHandle<()>>,
}

impl Tunnel {
    /// Makes both devices, which are down, and starts the pump.
    ///
    /// # Errors
    /// Without `/dev/net/tun`, or where a name is taken.
    pub fn new(mail: (&NetNs, &str), world: (&NetNs, &str)) -> Result<Self> {
        let [near, far] = [mail, world].map(|(ns, name)| {
            let device = ns.run(|| device(name))??;
            ns.sh(&format!("ip link set {name} txqueuelen {QUEUE}"))?;
            anyhow::Ok(device)
        });
        let (near, far) = (near?, far?);
        let (running, ends) = UnixStream::pair()?;
        let pump =
            thread::Builder::new().name("tunnel".to_owned()).spawn(move || pump(&near, &far, &ends))?;
        Ok(Self { running: Some(running), pump: Some(pump) })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.running = None;
        // The devices are files of the pump's: they are gone when it has ended.
        if self.pump.take().is_some_and(|pump| pump.join().is_err()) {
            eprintln!("tunnel: the pump panicked");
        }
    }
}

/// Makes a tun device of this name in the thread's network namespace. Its packets begin with the IP header.
fn device(name: &str) -> Result<File> {
    let device = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("/dev/net/tun: a point-to-point link needs it")?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI)?,
        },
    };
    ensure!(name.len() < libc::IFNAMSIZ, "{name} is too long for an interface");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: the request is a whole ifreq that outlives the call.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if answer != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("cannot make {name}"));
    }
    Ok(device)
}

/// Carries packets both ways until the other end of `ends` is closed.
fn pump(near: &File, far: &File, ends: &UnixStream) {
    let mut packet = vec![0_u8; PACKET];
    loop {
        let mut waiting =
            [near.as_fd(), far.as_fd(), ends.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        // Interrupted by a signal: what can be read is read, and the next round waits again.
        poll(&mut waiting, PollTimeout::NONE).ok();
        if waiting[2].any() == Some(true) {
            return;
        }
        carry(near, far, &mut packet);
        carry(far, near, &mut packet);
    }
}

fn carry(mut from: &File, mut to: &File, packet: &mut [u8]) {
    for _ in 0..TURN {
        match from.read(packet) {
            // A wire loses what its other end cannot take, such as while that is down.
            Ok(length) => drop(to.write(&packet[..length])),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
