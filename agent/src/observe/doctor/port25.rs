//! Port 25 on the way out, tried from each source while no rules of ours stand.
//!
//! Where they stand, a connection of the doctor's would be taken for a stream's, or held; the agent makes tries of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use futures_util::StreamExt as _;
use futures_util::stream;
use mailsteer_core::config::{Config, PoolSource};
use mailsteer_core::doctor::{Read, Unread};
use mailsteer_core::signal::port25::Try;

use crate::observe::nft;
use crate::observe::port25::{addresses, round};
use crate::observe::probe::Probe;

/// Sources that are tried at a time; a round takes 20 s where nobody answers.
const AT_A_TIME: usize = 64;

/// What the tries met, by source; `None` where the config does not say with whom.
pub(super) async fn look(config: Option<&Config>) -> Read<Option<BTreeMap<String, Read<Vec<Try>>>>> {
    let Some((config, preflight)) = config.and_then(|config| Some((config, config.preflight.as_ref()?)))
    else {
        return Ok(None);
    };
    no_rules_stand().await?;
    if config.uplinks.len() > 1 {
        let why =
            "only the agent's rules send each source by its own uplink; it tries them itself once it steers";
        return Err(Unread { why: why.to_owned(), needs_root: false });
    }
    let v4 = addresses(&preflight.receivers, Ipv4Addr::UNSPECIFIED.into()).await;
    let v6 = addresses(&preflight.receivers, Ipv6Addr::UNSPECIFIED.into()).await;
    let port = config.ports.first().copied().unwrap_or(25);
    let sources = config.pools.values().flat_map(|pool| &pool.sources).filter(|source| source.weight > 0);
    let tries = sources.map(|source| {
        let receivers: &[IpAddr] = if source.local.is_ipv4() { &v4 } else { &v6 };
        async move { (source.name.clone(), tried(source, port, receivers).await) }
    });
    Ok(Some(stream::iter(tries).buffer_unordered(AT_A_TIME).collect().await))
}

async fn tried(source: &PoolSource, port: u16, receivers: &[IpAddr]) -> Read<Vec<Try>> {
    let to = SocketAddr::new(source.local, port);
    let tries = round(Probe { slot: None, from: source.local, to }, receivers).await;
    tries.map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Unread { why: format!("{error}{cause}"), needs_root: false }
    })
}

async fn no_rules_stand() -> Result<(), Unread> {
    match nft::read().await {
        Ok(None) => Ok(()),
        Ok(Some(_)) => {
            let why = "rules of mailsteer stand here, and the agent tries it itself: `mailsteer sources` shows whose port 25 is blocked";
            Err(Unread { why: why.to_owned(), needs_root: false })
        }
        Err(error) => Err(Unread { why: error.to_string(), needs_root: true }),
    }
}
