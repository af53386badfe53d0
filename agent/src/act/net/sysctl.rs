//! The one kernel setting that policy routing needs.
//!
//! Owns: `src_valid_mark`. Must not: remember the old value: the caller records it. The files are those of the network
//! namespace that the calling thread is in.

use std::fs;

use crate::netlink::NetError;

/// What is set now.
///
/// # Errors
/// When the setting cannot be read.
pub fn src_valid_mark(interface: &str) -> Result<String, NetError> {
    let path = path(interface)?;
    let text = fs::read_to_string(&path).map_err(|source| NetError::Setting { path, source })?;
    Ok(text.trim().to_owned())
}

/// Lets strict reverse path filtering heed the packet mark on an uplink.
///
/// # Errors
/// When the setting cannot be written.
pub fn set_src_valid_mark(interface: &str) -> Result<(), NetError> {
    write(path(interface)?, "1")
}

/// Puts back what [`src_valid_mark`] returned.
///
/// # Errors
/// When the setting cannot be written.
pub fn restore_src_valid_mark(interface: &str, before: &str) -> Result<(), NetError> {
    write(path(interface)?, before)
}

fn write(path: String, value: &str) -> Result<(), NetError> {
    fs::write(&path, value).map_err(|source| NetError::Setting { path, source })
}

fn path(interface: &str) -> Result<String, NetError> {
    // A name comes from the config: it must not lead elsewhere.
    if interface.is_empty() || interface.contains('/') || interface == "." || interface == ".." {
        return Err(NetError::NoInterface { name: interface.to_owned() });
    }
    Ok(format!("/proc/sys/net/ipv4/conf/{interface}/src_valid_mark"))
}
