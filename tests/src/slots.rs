//! Where the table's slots lead, as the kernel says.
//!
//! Owns: reading `nft -j`. Must not: ask the agent.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::netns::NetNs;

/// The source's number in a mark.
const SOURCE: u64 = 0xfff;

/// Whether any slot leads to a source of which that holds.
///
/// # Errors
/// When there is no table, or it cannot be read.
pub fn lead_to(mail: &NetNs, wanted: impl Fn(IpAddr) -> bool) -> Result<bool> {
    let listing: Value = serde_json::from_str(&mail.sh("nft -j list table inet mailsteer")?)?;
    let entries = listing["nftables"].as_array().context("no list")?;
    let pairs = |name: &str| -> Vec<(&Value, &Value)> {
        let map = entries.iter().map(|entry| &entry["map"]).find(|map| map["name"] == name);
        let elements = map.and_then(|map| map["elem"].as_array()).into_iter().flatten();
        elements.map(|pair| (&pair[0], &pair[1])).collect()
    };
    let is_wanted =
        |address: &Value| address.as_str().and_then(|text| text.parse().ok()).is_some_and(&wanted);
    let sources = [pairs("addr4"), pairs("addr6")].concat();
    let ids: Vec<u64> =
        sources.iter().filter(|(_, address)| is_wanted(address)).filter_map(|(id, _)| id.as_u64()).collect();
    Ok(pairs("slots")
        .iter()
        .any(|(_, mark)| mark.as_u64().is_some_and(|mark| ids.contains(&(mark & SOURCE)))))
}
