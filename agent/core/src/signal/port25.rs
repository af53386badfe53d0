//! Whether port 25 is open on the way out from a source: a hoster's block, told from receivers that are dead.
//!
//! Owns: what one round of tries shows. Must not: make tries, or act on them. A receiver that does not answer may be dead, and
//! a source whose mail is dropped may have lost its route: only what answers elsewhere at the same time tells.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Ports that are tried where 25 does not answer: submission (RFC 6409), submissions (RFC 8314), HTTPS. Hosters that
/// block 25 leave these open.
pub const ELSEWHERE: [u16; 3] = [587, 465, 443];

/// How many receivers have to be silent at port 25 before that is a block: one may refuse this address alone.
pub const RECEIVERS: usize = 2;

/// What a connection to a receiver's port 25 met.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "met", content = "words")]
pub enum Met {
    /// A greeting with 2xx.
    Greeting,
    /// It stood, and then met something else, in whole words: a refusal, no greeting, an end.
    Other(String),
    /// A reset.
    Refused,
    /// No answer in time.
    Silence,
    /// An ICMP error.
    Unreachable(String),
}

/// One receiver, tried from one source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Try {
    /// The receiver.
    pub receiver: IpAddr,
    /// At its port 25.
    pub met: Met,
    /// Another of its ports that answered at the same time; only looked for where 25 did not.
    pub elsewhere: Option<u16>,
}

/// What a round of tries from one source shows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "port25", content = "why")]
pub enum Port25 {
    /// Connections come through.
    Open,
    /// They do not, and others do.
    Blocked(String),
    /// Nobody can tell.
    Unknown(String),
}

impl Try {
    /// Whether the connection stood: what was said in it is another matter.
    #[must_use]
    pub const fn stood(&self) -> bool {
        matches!(self.met, Met::Greeting | Met::Other(_))
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Greeting => f.write_str("greets"),
            Self::Other(words) => f.write_str(words),
            Self::Refused => f.write_str("refused"),
            Self::Silence => f.write_str("no answer"),
            Self::Unreachable(words) => write!(f, "unreachable: {words}"),
        }
    }
}

/// What a round from one source shows. `reached` are receivers that answered another source at port 25 lately.
#[must_use]
pub fn judge(tries: &[Try], reached: &BTreeSet<IpAddr>) -> Port25 {
    if tries.iter().any(Try::stood) {
        return Port25::Open;
    }
    let receivers: BTreeSet<IpAddr> = tries.iter().map(|one| one.receiver).collect();
    if receivers.len() < RECEIVERS {
        return Port25::Unknown(format!("only {} receivers could be tried", receivers.len()));
    }
    if let Some((one, port)) = tries.iter().find_map(|one| Some((one, one.elsewhere?))) {
        let at = one.receiver;
        let n = receivers.len();
        return Port25::Blocked(format!(
            "none of {n} receivers answers at port 25, while {at} answers at port {port} ({at} at port 25: {})",
            one.met
        ));
    }
    match tries.iter().find(|one| reached.contains(&one.receiver)) {
        Some(one) => {
            let (n, at) = (receivers.len(), one.receiver);
            Port25::Blocked(format!(
                "nothing that it sends to {n} receivers is answered, while {at} answers other sources"
            ))
        }
        None => Port25::Unknown(format!("none of {} receivers answers anybody", receivers.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(n: u8, met: Met, elsewhere: Option<u16>) -> Try {
        Try { receiver: IpAddr::from([203, 0, 113, n]), met, elsewhere }
    }

    fn judged(tries: &[Try]) -> Port25 {
        judge(tries, &BTreeSet::new())
    }

    #[test]
    fn a_connection_that_stands_shows_an_open_port_whatever_is_said_in_it() {
        for met in [Met::Greeting, Met::Other("554 listed".into())] {
            let tries = [tried(1, Met::Silence, Some(587)), tried(2, met, None)];
            assert_eq!(judged(&tries), Port25::Open);
        }
    }

    #[test]
    fn silence_alone_shows_nothing() {
        let dead = [tried(1, Met::Silence, None), tried(2, Met::Unreachable("no route".into()), None)];
        assert!(matches!(judged(&dead), Port25::Unknown(_)));
        assert!(matches!(judged(&[]), Port25::Unknown(_)));
        let one = [tried(1, Met::Silence, Some(587)), tried(1, Met::Silence, Some(587))];
        assert!(matches!(judged(&one), Port25::Unknown(_)), "one receiver may not like this address");
    }

    #[test]
    fn what_answers_elsewhere_shows_a_block() {
        for met in [Met::Silence, Met::Refused, Met::Unreachable("prohibited".into())] {
            let tries = [tried(1, met.clone(), None), tried(2, met, Some(443))];
            let Port25::Blocked(why) = judged(&tries) else { panic!("{tries:?}") };
            assert!(why.contains("203.0.113.2 answers at port 443"), "{why}");
        }
    }

    #[test]
    fn what_answers_others_shows_a_source_that_is_cut_off() {
        let tries = [tried(1, Met::Silence, None), tried(2, Met::Silence, None)];
        let reached = BTreeSet::from([IpAddr::from([203, 0, 113, 2])]);
        let Port25::Blocked(why) = judge(&tries, &reached) else { panic!() };
        assert!(why.contains("203.0.113.2 answers other sources"), "{why}");
        let elsewhere = BTreeSet::from([IpAddr::from([203, 0, 113, 9])]);
        assert!(matches!(judge(&tries, &elsewhere), Port25::Unknown(_)));
    }
}
