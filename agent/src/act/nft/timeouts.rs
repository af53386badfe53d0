//! The conntrack timeouts of steered connections.
//!
//! Owns: their objects. Must not: shorten what a live connection needs: what is established keeps the kernel's own,
//! long time. A closed connection otherwise stays in conntrack for 120 s, which on a small host is 68 connections a
//! second. By netlink, since nft 1.0.6 loses a timeout's protocol and policy when it reads JSON.

use mailsteer_core::model::Family;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::NfTablesMessage;

use crate::nftnl::{Connection, NetlinkError, TABLE, nested, timeout};

const OBJECT_TABLE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
const TYPE_CT_TIMEOUT: u32 = 7;
const L3PROTO: u16 = 1;
const L4PROTO: u16 = 2;
const POLICY: u16 = 3;
const TCP: u8 = 6;
/// Seconds by `CTA_TIMEOUT_TCP_*`: SYN sent (its retransmissions renew it), time wait, close.
const SECONDS: [(u16, u32); 3] = [(1, 35), (7, 10), (8, 5)];

/// Makes sure that the timeouts stand; `false`: this kernel has none (`CONFIG_NF_CONNTRACK_TIMEOUT`), so rules must
/// do without.
pub(super) fn ensure(connection: &mut Connection) -> Result<bool, NetlinkError> {
    let objects = Family::BOTH.map(|family| (NfTablesMessage::NewObject(object(family)), NLM_F_CREATE));
    match connection.transaction(objects.into()) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL)) => {
            tracing::warn!(%error, "no conntrack timeouts on this kernel: closed connections stay 120 s");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn object(family: Family) -> Vec<DefaultNla> {
    let l3 = match family {
        Family::V4 => libc::NFPROTO_IPV4,
        Family::V6 => libc::NFPROTO_IPV6,
    };
    let l3 = u16::try_from(l3).unwrap_or(0);
    let policy: Vec<_> = SECONDS
        .iter()
        .map(|(state, seconds)| DefaultNla::new(*state, seconds.to_be_bytes().to_vec()))
        .collect();
    let data = [
        DefaultNla::new(L3PROTO, l3.to_be_bytes().to_vec()),
        DefaultNla::new(L4PROTO, vec![TCP]),
        nested(POLICY, &policy),
    ];
    let name = |name: &str| [name.as_bytes(), &[0]].concat();
    vec![
        DefaultNla::new(OBJECT_TABLE, name(TABLE)),
        DefaultNla::new(OBJECT_NAME, name(timeout(family))),
        DefaultNla::new(OBJECT_TYPE, TYPE_CT_TIMEOUT.to_be_bytes().to_vec()),
        nested(OBJECT_DATA, &data),
    ]
}
