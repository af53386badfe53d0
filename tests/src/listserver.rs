//! A DNS server of block lists that tells the truth, or lies in one of the ways that are known of lists.
//!
//! Owns: one UDP socket and what it answers. Must not: be asked for anything else.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{RData, Record, RecordType};

use crate::netns::NetNs;

/// Where it is, inside the mail host.
pub const AT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5353);

/// How a zone answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zone {
    /// Its test point and what was published.
    Honest,
    /// With this for every name, be it of a list or not.
    Everything(Ipv4Addr),
    /// With NXDOMAIN for every name: gone.
    Nothing,
    /// With SERVFAIL.
    Fails,
    /// Not at all.
    Silent,
}

/// What it answers now.
#[derive(Debug)]
struct Now {
    zone: Zone,
    listed: BTreeSet<IpAddr>,
    asked: u64,
}

/// The running server.
#[derive(Debug)]
pub struct ListServer {
    now: Arc<Mutex<Now>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl ListServer {
    /// Starts it at [`AT`].
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(ns: &NetNs) -> Result<Self> {
        let socket = ns.run(|| UdpSocket::bind(AT))??;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let now = Arc::new(Mutex::new(Now { zone: Zone::Honest, listed: BTreeSet::new(), asked: 0 }));
        let stop = Arc::new(AtomicBool::new(false));
        let (of_thread, stopped) = (Arc::clone(&now), Arc::clone(&stop));
        let thread = ns.thread("lists", move || serve(&socket, &of_thread, &stopped))?;
        Ok(Self { now, stop, thread: Some(thread) })
    }

    /// From now on its zones answer so.
    pub fn set(&self, zone: Zone) {
        self.change(|now| now.zone = zone);
    }

    /// Puts an address on every list.
    pub fn publish(&self, address: IpAddr) {
        self.change(|now| {
            now.listed.insert(address);
        });
    }

    /// Takes it off.
    pub fn withdraw(&self, address: IpAddr) {
        self.change(|now| {
            now.listed.remove(&address);
        });
    }

    /// How many questions came since the start.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.now.lock().map(|now| now.asked).unwrap_or_default()
    }

    fn change(&self, change: impl FnOnce(&mut Now)) {
        if let Ok(mut now) = self.now.lock() {
            change(&mut now);
        }
    }
}

impl Drop for ListServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let ended =
            self.thread.take().map_or(Ok(()), |t| t.join().map_err(|_| anyhow!("it panicked")).flatten());
        if let Err(e) = ended {
            eprintln!("lab: lists: {e:#}");
        }
    }
}

fn serve(socket: &UdpSocket, now: &Mutex<Now>, stop: &AtomicBool) -> Result<()> {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Acquire) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
        let mut now = now.lock().map_err(|_| anyhow!("a test panicked"))?;
        now.asked += 1;
        if let Some(answer) = answer(&question, &now) {
            socket.send_to(&answer.to_vec()?, from)?;
        }
    }
    Ok(())
}

fn answer(question: &Message, now: &Now) -> Option<Message> {
    let query = question.queries.first()?;
    let name = query.name().to_ascii().to_ascii_lowercase();
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.add_query(query.clone());
    let code = match now.zone {
        Zone::Silent => return None,
        Zone::Fails => {
            answer.metadata.response_code = ResponseCode::ServFail;
            return Some(answer);
        }
        Zone::Nothing => None,
        Zone::Everything(code) => Some(code),
        Zone::Honest => {
            let on = now.listed.iter().any(|address| name.starts_with(&reversed(*address)));
            (on || name.starts_with("2.0.0.127.")).then_some(Ipv4Addr::new(127, 0, 0, 2))
        }
    };
    match (code, query.query_type()) {
        (None, _) => answer.metadata.response_code = ResponseCode::NXDomain,
        (Some(code), RecordType::A) => {
            answer.add_answer(Record::from_rdata(query.name().clone(), 60, RData::A(A(code))));
        }
        (Some(_), RecordType::TXT) => {
            let words = TXT::new(vec!["https://lists.example/why".to_owned()]);
            answer.add_answer(Record::from_rdata(query.name().clone(), 60, RData::TXT(words)));
        }
        (Some(_), _) => {}
    }
    Some(answer)
}

fn reversed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.octets().iter().rev().map(|octet| format!("{octet}.")).collect(),
        IpAddr::V6(v6) => {
            v6.octets().iter().rev().map(|octet| format!("{:x}.{:x}.", octet & 15, octet >> 4)).collect()
        }
    }
}
