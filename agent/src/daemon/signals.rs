//! From the kernel's records to what the core is told of each source.
//!
//! Owns: which source and provider a record is about, and doubts: a SYN that was sent a second time is silent only once 300 ms
//! have passed without an answer. Must not: weigh anything. Records are taken in order, so that after a stall of the agent an answer
//! that came in time is read before its doubt is due.

use std::collections::HashMap;
use std::net::IpAddr;

use mailsteer_core::decide::World;
use mailsteer_core::model::{LaneId, Sign, Signal, SourceId};
use mailsteer_ebpf::{Event, Mark, Outcome, Said};

use super::clock::Clock;
use super::control::unmapped;
use crate::observe::bpf::Record;

/// How long after the second SYN an answer may take: three times the round trip to the other end of the earth.
const PATIENCE: u64 = 300_000_000;
/// More doubts at a time are forgotten: what is not known changes nothing.
const DOUBTS: usize = 65_536;

/// Who a mark is about.
#[derive(Default)]
pub(super) struct Known {
    sources: HashMap<u16, (String, IpAddr)>,
    lanes: HashMap<u8, (String, String)>,
}

impl Known {
    pub(super) fn of(world: &World) -> Self {
        let names: HashMap<IpAddr, &str> =
            world.pool_sources().map(|source| (source.local, source.name.as_str())).collect();
        let source = |(SourceId(id), local, _)| {
            let name = names.get(&local).map_or_else(|| local.to_string(), |name| (*name).to_owned());
            (id, (name, local))
        };
        let lane = |(LaneId(id), name): (LaneId, &(String, String))| (id, name.clone());
        Self {
            sources: world.ids().sources().map(source).collect(),
            lanes: world.ids().lanes().map(lane).collect(),
        }
    }

    /// Name and address of a mark's source; `None` where it names none.
    pub(super) fn source(&self, mark: Mark) -> Option<&(String, IpAddr)> {
        self.sources.get(&mark.source)
    }

    /// Stream and provider of a mark's lane.
    pub(super) fn lane(&self, mark: Mark) -> Option<&(String, String)> {
        self.lanes.get(&mark.lane)
    }

    /// Local address and provider that a mark of a steered connection is about.
    fn pair(&self, mark: u32) -> Option<(IpAddr, &str)> {
        let mark = Mark::unpack(mark)?;
        Some((self.source(mark)?.1, &self.lane(mark)?.1))
    }
}

/// A connection on the wire.
type Wire = ([u8; 16], [u8; 16], u16, u16);

/// Turns records into signals.
#[derive(Default)]
pub(super) struct Listener {
    /// SYNs that were sent a second time: when that is silence, and what it says.
    doubts: HashMap<Wire, (u64, Signal)>,
}

impl Listener {
    /// What these records say, at this time since boot in nanoseconds.
    pub(super) fn hear(&mut self, known: &Known, clock: Clock, records: &[Record], now: u64) -> Vec<Signal> {
        let mut signals = Vec::new();
        for record in records {
            match record {
                Record::Event(event) => self.event(known, clock, event, &mut signals),
                Record::Said(said) => signals.extend(words(known, clock, said)),
                Record::Turned(_) => {}
            }
        }
        self.due(now, &mut signals);
        signals
    }

    fn event(&mut self, known: &Known, clock: Clock, event: &Event, signals: &mut Vec<Signal>) {
        let Some((source, provider)) = known.pair(event.mark) else { return };
        let signal = |sign| Signal {
            at: clock.at(event.decided),
            source,
            provider: provider.to_owned(),
            destination: unmapped(event.daddr),
            sign,
        };
        let wire = (event.saddr, event.daddr, event.sport, event.dport);
        if event.outcome == Outcome::Again as u8 {
            if self.doubts.len() < DOUBTS {
                self.doubts.insert(wire, (event.decided.saturating_add(PATIENCE), signal(Sign::Silent)));
            }
            return;
        }
        let doubt = self.doubts.remove(&wire);
        if let Some(sign) = sign(event.outcome) {
            signals.push(signal(sign));
        } else if event.outcome == Outcome::Unanswered as u8 {
            // Given up while in doubt: so long nobody answered.
            signals.extend(doubt.map(|(_, signal)| signal));
        }
    }

    fn due(&mut self, now: u64, signals: &mut Vec<Signal>) {
        let mut silent: Vec<Signal> =
            self.doubts.extract_if(|_, (due, _)| *due <= now).map(|(_, (_, signal))| signal).collect();
        silent.sort_by_key(|signal| signal.at);
        signals.extend(silent);
    }

    /// When the next doubt is due, in nanoseconds since boot.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.doubts.values().map(|(due, _)| *due).min()
    }
}

const fn sign(outcome: u8) -> Option<Sign> {
    Some(match outcome {
        1 => Sign::Established,
        2 => Sign::Refused,
        3 => Sign::Unreachable,
        7 => Sign::Reset,
        _ => return None,
    })
}

/// What a receiver said; `None` where it is no reply after all.
fn words(known: &Known, clock: Clock, said: &Said) -> Option<Signal> {
    let (source, provider) = known.pair(said.mark)?;
    let length = usize::try_from(said.length).ok()?.min(said.text.len());
    let (code, text) = reply(&said.text[..length])?;
    Some(Signal {
        at: clock.at(said.at),
        source,
        provider: provider.to_owned(),
        destination: unmapped(said.daddr),
        sign: Sign::Said { code, text, greeting: said.greeting == 1 },
    })
}

/// Code and text of a reply's first line; whatever cannot be shown is left out.
pub(crate) fn reply(bytes: &[u8]) -> Option<(u16, String)> {
    let (code, rest) = bytes.split_at_checked(3)?;
    let code: u16 = std::str::from_utf8(code).ok()?.parse().ok().filter(|code| (400..600).contains(code))?;
    let line = rest.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    let text = text.trim_start_matches([' ', '-']).chars().filter(|c| !c.is_control() && *c != '\u{fffd}');
    Some((code, text.collect()))
}

#[cfg(test)]
mod tests {
    use mailsteer_core::config::Config;

    use super::*;

    const MS: u64 = 1_000_000;

    fn known() -> Known {
        let local = IpAddr::from([192, 0, 2, 1]);
        Known {
            sources: [(7, ("main-1".to_owned(), local))].into(),
            lanes: [(3, ("mail".to_owned(), "other".to_owned()))].into(),
        }
    }

    fn event(outcome: Outcome, at: u64, sport: u16) -> Record {
        Record::Event(Event {
            started: 0,
            decided: at,
            cookie: 1,
            cgroup: 0,
            daddr: [1; 16],
            saddr: [2; 16],
            pid: 0,
            uid: 0,
            mark: Mark { uplink: 1, lane: 3, source: 7 }.pack(),
            sport,
            local_port: 0,
            dport: 25,
            outcome: outcome as u8,
            retransmits: 0,
            gid: 0,
        })
    }

    fn signs(listener: &mut Listener, records: &[Record], now: u64) -> Vec<Sign> {
        let heard = listener.hear(&known(), Clock::now(), records, now);
        heard.into_iter().map(|signal| signal.sign).collect()
    }

    #[test]
    fn a_second_syn_is_silence_only_after_its_time() {
        let mut listener = Listener::default();
        let again = [event(Outcome::Again, 1_000 * MS, 1), event(Outcome::Again, 1_000 * MS, 2)];
        assert_eq!(signs(&mut listener, &again, 1_010 * MS), []);
        assert_eq!(listener.next_due(), Some(1_300 * MS));
        let answered = [event(Outcome::Established, 1_200 * MS, 1)];
        assert_eq!(signs(&mut listener, &answered, 1_250 * MS), [Sign::Established]);
        assert_eq!(signs(&mut listener, &[], 1_300 * MS), [Sign::Silent]);
        assert_eq!(signs(&mut listener, &[], 9_000 * MS), []);
    }

    #[test]
    fn after_a_stall_an_answer_that_came_in_time_is_read_before_its_doubt_is_due() {
        let mut listener = Listener::default();
        let all = [event(Outcome::Again, 1_000 * MS, 1), event(Outcome::Established, 1_100 * MS, 1)];
        assert_eq!(signs(&mut listener, &all, 12_000 * MS), [Sign::Established]);
    }

    #[test]
    fn who_gives_up_in_doubt_had_no_answer_and_who_gives_up_early_says_nothing() {
        let mut listener = Listener::default();
        let given_up = [event(Outcome::Again, 1_000 * MS, 1), event(Outcome::Unanswered, 1_100 * MS, 1)];
        assert_eq!(signs(&mut listener, &given_up, 1_100 * MS), [Sign::Silent]);
        assert_eq!(signs(&mut listener, &[event(Outcome::Unanswered, 500 * MS, 2)], 500 * MS), []);
    }

    #[test]
    fn marks_of_nobody_say_nothing() {
        let nobody = Known::of(&World::new(Config::observe_only(), jiff::Timestamp::UNIX_EPOCH));
        let mut listener = Listener::default();
        let heard = listener.hear(&nobody, Clock::now(), &[event(Outcome::Refused, 1, 1)], 2);
        assert!(heard.is_empty());
    }

    #[test]
    fn replies_are_read_and_nothing_else() {
        let said = |text: &str| reply(text.as_bytes());
        assert_eq!(said("554-5.7.1 no\r\n554 more"), Some((554, "5.7.1 no".to_owned())));
        assert_eq!(said("421 \u{1b}[31mlater\r\n"), Some((421, "[31mlater".to_owned())));
        assert_eq!(said("554"), Some((554, String::new())));
        for other in ["220 welcome", "55", "", "5x4 no", "+54 no", "\u{16}\u{3}"] {
            assert_eq!(said(other), None, "{other:?}");
        }
    }
}
