//! Adds and removes one address.
//!
//! Owns: how an address of ours looks, such that no other program of the host starts to send from it. Must not:
//! touch an address without our protocol mark.

use std::net::IpAddr;

use mailsteer_core::plan::AddressAt;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::Handle;

use super::device::Device;
use super::{Added, Removed, gone};
use crate::netlink::{self, NetError, PROTOCOL, address_of, change, message_protocol};

/// The longest interface label, without its end.
const LABEL: usize = 15;

/// Does not wait for duplicate address detection: one slow address must not keep the loop from the others. Until it
/// has finished, observation shows the address as tentative, and no source uses it.
///
/// Nor does it read back each address: the kernel can only list all of them, which for a thousand addresses took
/// 20 s. What the kernel acknowledged the next pass reads anyway. `keeps_marks`: this kernel was seen to keep our
/// protocol mark; asked once.
pub(super) async fn add(
    handle: &Handle,
    device: &Device,
    at: &AddressAt,
    keeps_marks: &mut bool,
) -> Result<Added, NetError> {
    let what = format!("adding {} to {}", at.address, device.name);
    // The kernel takes an IPv4 address a second time where only the prefix length differs.
    if netlink::is_local(handle, at.address).await? {
        return standing(handle, device, at).await;
    }
    let message = RouteNetlinkMessage::NewAddress(message(device, at.address));
    match change(handle, &what, message, NLM_F_CREATE | NLM_F_EXCL).await {
        Ok(()) if *keeps_marks => Ok(Added::New),
        Ok(()) => {
            check_mark(handle, device, at, what).await?;
            *keeps_marks = true;
            Ok(Added::New)
        }
        // Tentative addresses are no routes yet.
        Err(error) if error.errno() == Some(libc::EEXIST) => standing(handle, device, at).await,
        Err(error) => Err(error),
    }
}

/// Whose an address is that stands already.
async fn standing(handle: &Handle, device: &Device, at: &AddressAt) -> Result<Added, NetError> {
    let found = find(handle, device, at.address).await?;
    let ours = found.is_some_and(|found| message_protocol(&found) == Some(PROTOCOL));
    Ok(if ours { Added::Present } else { Added::Adopted })
}

pub(super) async fn remove(handle: &Handle, device: &Device, at: &AddressAt) -> Result<Removed, NetError> {
    let Some(found) = find(handle, device, at.address).await? else { return Ok(Removed::Absent) };
    if message_protocol(&found) != Some(PROTOCOL) {
        return Ok(Removed::Foreign);
    }
    let what = format!("removing {} from {}", at.address, device.name);
    gone(change(handle, &what, RouteNetlinkMessage::DelAddress(found), 0).await)?;
    match find(handle, device, at.address).await? {
        None => Ok(Removed::Gone),
        Some(_) => Err(NetError::NotKept { what }),
    }
}

async fn check_mark(handle: &Handle, device: &Device, at: &AddressAt, what: String) -> Result<(), NetError> {
    match find(handle, device, at.address).await? {
        None => Err(NetError::NotKept { what }),
        Some(found) if message_protocol(&found) == Some(PROTOCOL) => Ok(()),
        Some(found) => {
            // Without the mark it could never be told from the operator's own: better not to have it.
            gone(change(handle, &what, RouteNetlinkMessage::DelAddress(found), 0).await)?;
            Err(NetError::NoProtocolMark { address: at.address, interface: device.name.clone() })
        }
    }
}

async fn find(handle: &Handle, device: &Device, address: IpAddr) -> Result<Option<AddressMessage>, NetError> {
    let all = netlink::addresses(handle, Some(device.index)).await?;
    Ok(all.into_iter().find(|one| address_of(one).is_some_and(|one| one.address == address)))
}

fn message(device: &Device, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = device.index;
    message.attributes = vec![
        AddressAttribute::Address(address),
        AddressAttribute::Local(address),
        AddressAttribute::Flags(AddressFlags::Noprefixroute),
        AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL)),
    ];
    match address {
        IpAddr::V4(_) => {
            message.header.family = AddressFamily::Inet;
            message.header.prefix_len = 32;
            // A tag of wider scope could become the source of an interface that has no address.
            message.header.scope = if device.loopback { AddressScope::Host } else { AddressScope::Universe };
            let label = format!("{}:ms", device.name);
            if label.len() <= LABEL {
                message.attributes.push(AddressAttribute::Label(label));
            }
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.header.prefix_len = 128;
            // Deprecated from the start, valid for ever: no program takes it by itself, all may bind to it.
            let mut lifetime = CacheInfo::default();
            lifetime.ifa_preferred = 0;
            lifetime.ifa_valid = u32::MAX;
            message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
    }
    message
}
