//! DNS, asked of one resolver that the operator named.
//!
//! Owns: the query, and which failure is which. Must not: keep answers (a list that takes an address off has to be heard at
//! once, and the resolver keeps them as long as it may), or know what is asked for.

mod survey;
mod validated;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use mailsteer_core::model::Family;
use mailsteer_core::signal::lists::Answer;
use mailsteer_core::signal::providers::NameAnswer;

pub use survey::survey;

/// How long one try may take; a resolver that has to look everything up takes a second or two.
const PATIENCE: Duration = Duration::from_secs(5);
/// Tries.
const TRIES: usize = 2;
/// A list's words are cut: they are shown to people.
const WORDS: usize = 300;

/// A resolver cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot ask the resolver {server}: {source}")]
pub struct ResolverError {
    server: SocketAddr,
    source: NetError,
}

/// Asks one resolver.
#[derive(Clone)]
pub struct Resolver {
    server: SocketAddr,
    library: TokioResolver,
}

impl Resolver {
    /// Sends nothing yet.
    ///
    /// # Errors
    /// Where the library cannot be set up.
    pub fn at(server: SocketAddr) -> Result<Self, ResolverError> {
        let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
        connections.iter_mut().for_each(|one| one.port = server.port());
        let named = NameServerConfig::new(server.ip(), true, connections.into());
        let config = ResolverConfig::from_name_servers(vec![named]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.timeout = PATIENCE;
        options.attempts = TRIES;
        options.cache_size = 0;
        // What this host calls itself in its own file is not what receivers find.
        options.use_hosts_file = ResolveHosts::Never;
        options.try_tcp_on_error = true;
        let library = builder.build().map_err(|source| ResolverError { server, source })?;
        Ok(Self { server, library })
    }

    /// The IPv4 addresses of a name.
    pub async fn addresses(&self, name: &str) -> Answer {
        let name = match absolute(name) {
            Ok(name) => name,
            Err(why) => return Answer::Failed(why),
        };
        match self.library.lookup(name, RecordType::A).await {
            Ok(found) => {
                let addresses = found.answers().iter().filter_map(|record| match &record.data {
                    RData::A(address) => Some(IpAddr::V4(address.0)),
                    _ => None,
                });
                Answer::Addresses(addresses.collect())
            }
            Err(error) => failure(&error),
        }
    }

    /// The names of a domain's mail servers.
    pub async fn mail_servers(&self, domain: &str) -> NameAnswer {
        let name = match absolute(domain) {
            Ok(name) => name,
            Err(why) => return NameAnswer::Failed(why),
        };
        match self.library.lookup(name, RecordType::MX).await {
            Ok(found) => {
                let names = found.answers().iter().filter_map(|record| match &record.data {
                    RData::MX(mx) => Some(mx.exchange.to_ascii()),
                    _ => None,
                });
                NameAnswer::Hosts(names.collect())
            }
            Err(error) => name_failure(&error),
        }
    }

    /// The addresses of a mail server in one family.
    pub async fn addresses_of(&self, name: &str, family: Family) -> NameAnswer {
        let name = match absolute(name) {
            Ok(name) => name,
            Err(why) => return NameAnswer::Failed(why),
        };
        let kind = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        match self.library.lookup(name, kind).await {
            Ok(found) => {
                let addresses = found.answers().iter().filter_map(|record| match &record.data {
                    RData::A(address) => Some(IpAddr::V4(address.0)),
                    RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                    _ => None,
                });
                NameAnswer::Addresses(addresses.collect())
            }
            Err(error) => name_failure(&error),
        }
    }

    /// The first text of a name, as it may be shown.
    pub async fn words(&self, name: &str) -> Option<String> {
        let found = self.library.lookup(absolute(name).ok()?, RecordType::TXT).await.ok()?;
        let text = found.answers().iter().find_map(|record| match &record.data {
            RData::TXT(text) => Some(text.txt_data.concat()),
            _ => None,
        })?;
        let text = String::from_utf8_lossy(&text);
        Some(text.chars().filter(|c| !c.is_control()).take(WORDS).collect())
    }
}

/// No search list is tried: what a list does not have is not to be found in somebody's domain.
fn absolute(name: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(name).map_err(|error| format!("`{name}` is no name: {error}"))?;
    name.set_fqdn(true);
    Ok(name)
}

fn name_failure(error: &NetError) -> NameAnswer {
    match failure(error) {
        Answer::Failed(why) => NameAnswer::Failed(why),
        Answer::Addresses(_) | Answer::NoSuchName => NameAnswer::Nothing,
    }
}

fn failure(error: &NetError) -> Answer {
    why(error).map_or(Answer::NoSuchName, Answer::Failed)
}

/// Why a lookup failed; nothing where there just is no such record.
fn why(error: &NetError) -> Option<String> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain | ResponseCode::NoError => None,
            code => Some(code.to_string()),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => Some(code.to_string()),
        NetError::Timeout => Some(format!("nothing within {} s", PATIENCE.as_secs())),
        other => Some(other.to_string()),
    }
}
