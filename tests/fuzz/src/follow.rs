//! What a log's files and the journal hold: lines, envelopes and entries of any bytes, in pieces of any length.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use mailsteer_core::signal::follow::{Stream, entry, envelope};
use mailsteer_core::signal::log::{self, Line, Mta};

/// However it comes, the same lines come out; and what is opened of one is read by every reader.
pub(crate) fn run(data: &[u8]) {
    let pieces = data.first().map_or(1, |first| usize::from(*first) + 1);
    let whole = lines(&[data]);
    assert_eq!(lines(&data.chunks(pieces).collect::<Vec<_>>()), whole);
    for line in &whole {
        if let Some(envelope) = envelope(line) {
            for mta in Mta::ALL {
                let read = log::read(mta, envelope.log.as_bytes(), &TimeZone::UTC, Timestamp::UNIX_EPOCH);
                if let Line::Delivery(one) = read.told_at(envelope.time.parse().ok()).in_container() {
                    assert_eq!(one.pid, None);
                }
            }
        }
        if let Some(entry) = entry(line) {
            for mta in Mta::ALL {
                let _any = log::read_entry(mta, &entry, &TimeZone::UTC, Timestamp::UNIX_EPOCH);
            }
        }
    }
}

fn lines(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let (mut stream, mut lines) = (Stream::default(), vec![]);
    for piece in pieces {
        stream.feed(piece, &mut |raw| lines.push(raw.text.to_vec()));
    }
    lines
}
