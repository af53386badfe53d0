//! How much a netlink socket holds.
//!
//! Owns: asking for more than the host's limit, which takes CAP_NET_ADMIN over the machine, and asking for as much as
//! the limit gives where that is missing: root of an unprivileged container has it over its network alone. Must not:
//! fail. Too small a buffer shows where it matters: notifications that are lost are told, and a message that is too
//! long is refused.

use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};

/// Room for so many bytes that were not read yet.
pub fn receive(socket: &impl AsFd, bytes: usize) {
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
        let _limited = setsockopt(socket, sockopt::RcvBuf, &bytes);
    }
}

/// Messages of so many bytes.
pub fn send(socket: &impl AsFd, bytes: usize) {
    if setsockopt(socket, sockopt::SndBufForce, &bytes).is_err() {
        let _limited = setsockopt(socket, sockopt::SndBuf, &bytes);
    }
}
