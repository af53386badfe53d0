//! Whether a tried connection met what it should have: the explanation beside the record.
//!
//! Owns: that comparison, as a pure function. Must not: ask anybody. A receiver that does not answer is the
//! receiver's affair: the address that was tried is judged, not the answer.

use crate::api::view::{ConnectionRow, Explanation, Fate, Outcome};

/// Whether it went as it should, and what to say.
pub(super) fn judge(stream: &str, explanation: &Explanation, seen: Option<&ConnectionRow>) -> (bool, String) {
    let Some(row) = seen else { return unseen(explanation) };
    if explanation.not_steered.is_none() && row.stream.as_deref() != Some(stream) {
        let by =
            row.stream.as_deref().map_or("by no stream".to_owned(), |other| format!("by stream {other}"));
        return (false, format!("the kernel matched it {by}, and stream {stream} should have matched"));
    }
    match explanation.fate {
        Fate::Alone => alone(row),
        // Of a canary, the connections that were not drawn are left alone.
        Fate::Steered | Fate::Refused | Fate::Held if explanation.share < 1000 && unsteered(row) => {
            let (whole, tenth) = (explanation.share / 10, explanation.share % 10);
            let (_, said) = alone(row);
            (true, format!("{said}: it is not of the {whole}.{tenth} % that are steered"))
        }
        Fate::Steered => steered(explanation, row),
        Fate::Refused if row.outcome == Outcome::Policy => (true, "refused at once, as wanted".to_owned()),
        Fate::Held if row.outcome == Outcome::Local => (true, "held, as wanted: nothing left".to_owned()),
        Fate::Refused => (false, format!("{}, and should have been refused", became(row))),
        Fate::Held => (false, format!("{}, and should have been held", became(row))),
    }
}

fn unseen(explanation: &Explanation) -> (bool, String) {
    match &explanation.not_steered {
        // The agent follows what it may steer, and nothing else.
        Some(why) => (true, format!("left alone, as wanted: {why}")),
        None => {
            (false, "the agent told nothing of this connection in time: see `mailsteer status`".to_owned())
        }
    }
}

/// It left, and no source was chosen for it.
const fn unsteered(row: &ConnectionRow) -> bool {
    row.wanted_address.is_none() && row.real_address.is_some()
}

fn alone(row: &ConnectionRow) -> (bool, String) {
    match row.real_address {
        Some(real) if unsteered(row) => (true, format!("left from {real}, unsteered as wanted")),
        _ => (false, format!("{}, and should have been left alone", became(row))),
    }
}

fn steered(explanation: &Explanation, row: &ConnectionRow) -> (bool, String) {
    let (Some(wanted), Some(real)) = (row.wanted_address, row.real_address) else {
        return (false, format!("{}, and should have been steered", became(row)));
    };
    if wanted != real {
        return (false, format!("left from {real}, and {wanted} was wanted"));
    }
    if !explanation.sources.iter().any(|source| source.address == real && source.share > 0.0) {
        let why = "which is no source that the explanation names: was there a flip meanwhile? Try again";
        return (false, format!("left from {real}, {why}"));
    }
    (true, format!("left from {real}, as wanted"))
}

fn became(row: &ConnectionRow) -> String {
    match (row.real_address, row.outcome) {
        (Some(real), _) if row.wanted_address.is_none() => format!("left from {real} unsteered"),
        (Some(real), _) => format!("left from {real}"),
        (None, Outcome::Policy) => "refused at once".to_owned(),
        (None, _) => "nothing left this host".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::{Destination, SourceStep, Who};
    use mailsteer_core::config::Tier;
    use mailsteer_core::model::Family;

    const STEERED: &str = "192.0.2.11";
    const OTHER: &str = "192.0.2.10";

    fn meant(fate: Fate, share: u32) -> Explanation {
        Explanation {
            who: Who::default(),
            destination: Destination { address: [203, 0, 113, 1].into(), port: 25 },
            not_steered: None,
            streams: vec![],
            provider: Some("other".into()),
            provider_by: None,
            pool: Some("main".into()),
            family: Family::V4,
            sources: vec![SourceStep {
                source: "main-1".into(),
                address: STEERED.parse().unwrap(),
                tier: Tier::Primary,
                share: 1.0,
                why: String::new(),
            }],
            result: String::new(),
            assumed: vec![],
            stream: Some("mail".into()),
            fate,
            share,
        }
    }

    fn row(wanted: Option<&str>, real: Option<&str>, outcome: Outcome) -> ConnectionRow {
        ConnectionRow {
            time: jiff::Timestamp::UNIX_EPOCH,
            pid: None,
            uid: None,
            cgroup: None,
            stream: Some("mail".into()),
            provider: "other".into(),
            wanted_source: wanted.map(|_| "main-1".into()),
            wanted_address: wanted.map(|a| a.parse().unwrap()),
            real_address: real.map(|a| a.parse().unwrap()),
            destination: [203, 0, 113, 1].into(),
            destination_port: 25,
            local_port: None,
            cookie: Some(1),
            outcome,
            handshake_ms: 0.1,
            retransmits: 0,
        }
    }

    fn left(wanted: Option<&str>, real: &str) -> ConnectionRow {
        row(wanted, Some(real), Outcome::Established)
    }

    #[test]
    fn every_fate_beside_every_record() {
        let steered = left(Some(STEERED), STEERED);
        let wrong = left(Some(STEERED), OTHER);
        let stranger = left(Some(OTHER), OTHER);
        let alone = left(None, OTHER);
        let refused = row(None, None, Outcome::Policy);
        let nothing = row(None, None, Outcome::Local);
        let by_receiver = row(Some(STEERED), Some(STEERED), Outcome::Refused);
        let cases = [
            // fate, share: steered, wrong, stranger, alone, refused, nothing, refused by the receiver
            (Fate::Steered, 1000, [true, false, false, false, false, false, true]),
            (Fate::Steered, 300, [true, false, false, true, false, false, true]),
            (Fate::Refused, 1000, [false, false, false, false, true, false, false]),
            (Fate::Refused, 300, [false, false, false, true, true, false, false]),
            (Fate::Held, 1000, [false, false, false, false, false, true, false]),
            (Fate::Alone, 0, [false, false, false, true, false, false, false]),
        ];
        for (fate, share, wanted) in cases {
            let rows = [&steered, &wrong, &stranger, &alone, &refused, &nothing, &by_receiver];
            for (n, (row, wanted)) in rows.into_iter().zip(wanted).enumerate() {
                let (as_wanted, said) = judge("mail", &meant(fate, share), Some(row));
                assert_eq!(as_wanted, wanted, "{fate:?} {share} record {n}: {said}");
            }
        }
    }

    #[test]
    fn another_stream_took_it() {
        let mut row = left(Some(STEERED), STEERED);
        row.stream = Some("bulk".into());
        let (as_wanted, said) = judge("mail", &meant(Fate::Steered, 1000), Some(&row));
        assert!(!as_wanted);
        assert_eq!(said, "the kernel matched it by stream bulk, and stream mail should have matched");
    }

    #[test]
    fn no_record() {
        assert!(!judge("mail", &meant(Fate::Steered, 1000), None).0);
        let mut explanation = meant(Fate::Alone, 0);
        explanation.not_steered = Some("port 2525 is not steered".into());
        assert_eq!(
            judge("mail", &explanation, None),
            (true, "left alone, as wanted: port 2525 is not steered".to_owned())
        );
    }
}
