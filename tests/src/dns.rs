//! The lab's authoritative DNS server: every name there is, and NXDOMAIN for the others.
//!
//! Owns: one zone, the root, and the thread that serves it. Must not: ask any other server.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use hickory_proto::rr::rdata::{A, AAAA, MX, NS, PTR, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record};
use hickory_server::Server;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};

use crate::netns::NetNs;
use crate::topology::DNS;

/// What the server will answer.
#[derive(Clone, Debug, Default)]
pub struct Records {
    records: Vec<Record>,
}

impl Records {
    /// A host, with its reverse name.
    ///
    /// # Errors
    /// When the name is none.
    pub fn host(self, name: &str, address: IpAddr) -> Result<Self> {
        self.address(name, address)?.pointer(address, name)
    }

    /// An address of a host, and nothing on the way back.
    ///
    /// # Errors
    /// When the name is none.
    pub fn address(mut self, name: &str, address: IpAddr) -> Result<Self> {
        let data = match address {
            IpAddr::V4(a) => RData::A(A(a)),
            IpAddr::V6(a) => RData::AAAA(AAAA(a)),
        };
        self.records.push(Record::from_rdata(fqdn(name)?, 300, data));
        Ok(self)
    }

    /// The name of an address, and nothing on the way forth.
    ///
    /// # Errors
    /// When the name is none.
    pub fn pointer(mut self, address: IpAddr, name: &str) -> Result<Self> {
        self.records.push(Record::from_rdata(Name::from(address), 300, RData::PTR(PTR(fqdn(name)?))));
        Ok(self)
    }

    /// A text, in strings of 255 characters, as the wire has it.
    ///
    /// # Errors
    /// When the name is none.
    pub fn text(mut self, name: &str, text: &str) -> Result<Self> {
        let strings = text.as_bytes().chunks(255).map(|part| String::from_utf8_lossy(part).into_owned());
        self.records.push(Record::from_rdata(fqdn(name)?, 300, RData::TXT(TXT::new(strings.collect()))));
        Ok(self)
    }

    /// A mail exchanger of a domain.
    ///
    /// # Errors
    /// When a name is none.
    pub fn mx(mut self, domain: &str, preference: u16, exchange: &str) -> Result<Self> {
        let data = RData::MX(MX::new(preference, fqdn(exchange)?));
        self.records.push(Record::from_rdata(fqdn(domain)?, 300, data));
        Ok(self)
    }

    /// A domain whose mail is taken at these addresses, by `mx.<domain>`.
    ///
    /// # Errors
    /// When the name is none.
    pub fn domain(mut self, domain: &str, receivers: &[IpAddr]) -> Result<Self> {
        let exchange = format!("mx.{domain}");
        for address in receivers {
            self = self.host(&exchange, *address)?;
        }
        self.mx(domain, 10, &exchange)
    }

    /// The name that a receiver finds for an address.
    #[must_use]
    pub fn reverse(&self, address: IpAddr) -> Option<String> {
        let at = Name::from(address);
        self.records.iter().filter(|record| record.name == at).find_map(|record| match &record.data {
            RData::PTR(name) => Some(name.to_ascii().trim_end_matches('.').to_owned()),
            _ => None,
        })
    }
}

fn fqdn(name: &str) -> Result<Name> {
    let mut name = Name::from_str(name)?;
    name.set_fqdn(true);
    Ok(name)
}

/// The running server.
#[derive(Debug)]
pub struct Dns {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Dns {
    /// Starts it at [`DNS`], port 53, UDP and TCP.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(ns: &NetNs, records: &Records) -> Result<Self> {
        let mut zone: InMemoryZoneHandler =
            InMemoryZoneHandler::empty(Name::root(), ZoneType::Primary, AxfrPolicy::Deny);
        let server = fqdn("ns.lab")?;
        let soa = SOA::new(server.clone(), server.clone(), 1, 3600, 600, 86400, 60);
        let own = [
            Record::from_rdata(Name::root(), 300, RData::SOA(soa)),
            Record::from_rdata(Name::root(), 300, RData::NS(NS(server.clone()))),
            Record::from_rdata(server, 300, RData::A(A(DNS))),
        ];
        for record in own.into_iter().chain(records.records.iter().cloned()) {
            zone.upsert_mut(record, 1);
        }
        let mut catalog = Catalog::new();
        catalog.upsert(Name::root().into(), vec![Arc::new(zone)]);
        let at = SocketAddr::new(DNS.into(), 53);
        let (udp, tcp) = ns.run(|| -> Result<_> {
            let udp = std::net::UdpSocket::bind(at)?;
            let tcp = std::net::TcpListener::bind(at)?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok((udp, tcp))
        })??;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = ns.thread("dns", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let mut server = Server::new(catalog);
                server.register_socket(tokio::net::UdpSocket::from_std(udp)?);
                server.register_listener(
                    tokio::net::TcpListener::from_std(tcp)?,
                    Duration::from_secs(5),
                    4096,
                );
                stopped.await.ok();
                Ok(())
            })
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).ok();
        }
        let ended =
            self.thread.take().map_or(Ok(()), |t| t.join().map_err(|_| anyhow!("it panicked")).flatten());
        if let Err(e) = ended {
            eprintln!("lab: DNS: {e:#}");
        }
    }
}
