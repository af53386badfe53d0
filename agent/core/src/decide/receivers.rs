//! Whose a receiver is.
//!
//! Owns: the order of what tells it: a network of the config, then a name that leads to the address, then nothing, which is
//! `other`. Must not: learn names; [`crate::signal::providers`] does.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::{Config, OTHER};
use crate::model::ReceiverSets;
use crate::signal::providers::{Learned, Named};

/// Addresses of providers that are told by names.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Receivers {
    told: Arc<Learned>,
    sets: Arc<ReceiverSets>,
}

/// By what a receiver is a provider's.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Whose<'w> {
    /// It is in a network of it.
    Network(&'w str, IpNet),
    /// A name of it leads there.
    Name(&'w Named),
    /// Nothing is known.
    Nobody,
}

impl<'w> Whose<'w> {
    /// The provider.
    #[must_use]
    pub const fn provider(self) -> &'w str {
        match self {
            Self::Network(provider, _) => provider,
            Self::Name(named) => named.provider.as_str(),
            Self::Nobody => OTHER,
        }
    }
}

impl fmt::Display for Whose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(_, network) => write!(f, "its network {network}"),
            Self::Name(named) => write!(f, "the name {}, which leads there", named.host),
            Self::Nobody => f.write_str("neither a network nor a name of any provider"),
        }
    }
}

impl Receivers {
    /// Takes in what was learned.
    pub(super) fn tell(&mut self, learned: Arc<Learned>, config: &Config) {
        self.told = learned;
        self.follow(config);
    }

    /// The same under another config: what a network has is left out, and so is what no provider of it has.
    pub(super) fn follow(&mut self, config: &Config) {
        let named = config.providers.iter().filter(|provider| provider.named);
        let mut sets: ReceiverSets = named.map(|one| (one.name.clone(), [].into())).collect();
        for (address, named) in self.told.iter() {
            if let Some(set) = sets.get_mut(&named.provider)
                && config.provider_by_network(*address).is_none()
            {
                set.insert(*address);
            }
        }
        // The same again is the very same: what was shared before stays so.
        if sets != *self.sets {
            self.sets = Arc::new(sets);
        }
    }

    pub(super) fn sets(&self) -> Arc<ReceiverSets> {
        Arc::clone(&self.sets)
    }

    pub(super) fn whose<'w>(&'w self, config: &'w Config, receiver: IpAddr) -> Whose<'w> {
        if let Some((provider, network)) = config.provider_by_network(receiver) {
            return Whose::Network(provider, network);
        }
        let named = self.told.get(&receiver).filter(|named| config.is_named(&named.provider));
        named.map_or(Whose::Nobody, Whose::Name)
    }
}
