//! What the codes alone say, where no rule knows the words.
//!
//! Owns: the table of RFC 3463 and its additions (RFC 7372, RFC 7505, the IANA registry "SMTP Enhanced Status Codes"; read in
//! 2026-11), as far as it tells whose fault it is. Must not: isolate by a code that receivers use for everything; x.7.1 is
//! said of content and of addresses alike.

use super::text::Enhanced;
use super::{Cause, Class, Judgement, Reply};

/// Judges by the codes.
pub(super) fn judge(reply: &Reply) -> Judgement {
    if reply.code / 100 == 2 {
        return Judgement::by_code(Class::Accepted, None, "rfc5321");
    }
    let Some((class, cause)) = reply.enhanced.and_then(meaning) else {
        return Judgement::by_code(Class::Unknown, None, "none");
    };
    Judgement::by_code(class, cause, "rfc3463")
}

fn meaning((_, subject, detail): Enhanced) -> Option<(Class, Option<Cause>)> {
    let not = |cause| Some((Class::NotTheAddress, Some(cause)));
    match (subject, detail) {
        // Bad sender's mailbox, sender's system: 5.1.7, 5.1.8. Null MX of the sender: 5.7.27.
        (1, 7 | 8) | (7, 27) => not(Cause::Domain),
        // The recipient's address and mailbox; too many recipients; disabled recipient (RFC 4954 has 5.7.13 for accounts).
        (1 | 2, _) | (5, 3) | (7, 13 | 17) => not(Cause::Recipient),
        // Too big (RFC 3463 3.4 has 5.3.4), and the media and format of the message.
        (3, 4) | (6, _) => not(Cause::Content),
        // DKIM, SPF, authentication in general, ARC: RFC 7372, RFC 8617. 5.7.8 to 5.7.11: AUTH.
        (7, 8..=11 | 20..=24 | 26 | 29) => not(Cause::Authentication),
        // Reverse DNS of the address does not hold: RFC 7372 3.3.
        (7, 25) => Some((Class::IsolateHere, None)),
        // "Mail flood": the IANA registry, by RFC 5321's authors.
        (7, 28) => Some((Class::SlowDown, None)),
        _ => None,
    }
}
