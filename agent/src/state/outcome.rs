//! The words for everything that is counted.
//!
//! Owns: the words, which stand in the database and in metrics. Must not: change or reuse one: history bears them.

macro_rules! outcomes {
    ($($variant:ident $word:literal $help:literal;)*) => {
        /// What a counter counts.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Outcome {
            $(#[doc = $help] $variant,)*
        }

        impl Outcome {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word for it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// What the word stands for; `None` where this version does not know it.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

outcomes! {
    Attempted "attempted" "Connections whose first SYN left.";
    Established "established" "Connections whose SYN was answered by a SYN-ACK.";
    Refused "refused" "Connections whose SYN was answered by a reset.";
    Unreachable "unreachable" "Connections whose SYN was answered by an ICMP error.";
    Reset "reset" "Established connections that ended by a reset.";
    Unanswered "unanswered" "Connections whose SYN left and was never answered.";
    Closed "closed" "Connections that have ended.";
    BytesOut "bytes_out" "Bytes sent by connections that have ended, from the IP header on.";
    BytesIn "bytes_in" "Bytes that they received, from the IP header on.";
    Wrong "wrong" "Packets that left with another address than their mark says.";
    Retransmits "retransmits" "SYNs sent again.";
    Local "local" "Connections of which no SYN left, lost on this host.";
    Policy "policy" "Connections of which no SYN left, refused by decision.";
    NotSent "not_sent" "Connections of which no SYN left, whatever the cause.";
    Unfollowed "unfollowed" "Connections that could not be followed.";
    EventsLost "events_lost" "Records of connections that did not fit the ring buffer.";
    HeldNoMark "held_no_mark" "Packets held by the guard: no mark of ours.";
    HeldWrongAddress "held_wrong_address" "Packets held by the guard: another address than their mark's.";
    HeldWrongUplink "held_wrong_uplink" "Packets held by the guard: another uplink than their source's.";
    HeldUnreadable "held_unreadable" "Packets held by the guard: headers that cannot be read.";
    HeldUndeclared "held_undeclared" "Packets held by the guard: an interface that is no uplink.";
    HeldGap "held_gap" "SYNs held by the table: no slot.";
    HeldPending "held_pending" "SYNs held by the table: addresses on their way.";
    HeldUnowned "held_unowned" "Packets held by the table: nobody's any more.";
    HeldWrongTranslation "held_wrong_translation" "Packets dropped by the table: a stranger's NAT came first.";
    RefusedExhausted "refused_exhausted" "Connections refused: no eligible source.";
    RefusedNoIpv4 "refused_no_ipv4_source" "Connections refused: no IPv4 source in the pool.";
    RefusedNoIpv6 "refused_no_ipv6_source" "Connections refused: no IPv6 source in the pool.";
    RefusedSurge "refused_surge" "Connections refused: the share of a source that failed, of which its siblings may take no more.";
    RefusedStopped "refused_stopped" "Connections refused: the stream is stopped at this provider, its flips of the day are used up.";
    RefusedFuse "refused_fuse" "Connections refused: too much of what the stream sent from this share's source comes back.";
    RefusedUntracked "refused_untracked" "Packets refused: conntrack does not follow them.";
    RefusedMidstream "refused_midstream" "Packets refused: their conntrack entry was lost.";
}

impl Outcome {
    /// The reason, where it counts packets held.
    #[must_use]
    pub fn held(self) -> Option<&'static str> {
        self.as_str().strip_prefix("held_")
    }

    /// The reason, where it counts what the rules refused.
    #[must_use]
    pub fn refused_for(self) -> Option<&'static str> {
        self.as_str().strip_prefix("refused_")
    }

    /// What counts packets held for this reason.
    #[must_use]
    pub fn of_held(reason: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|outcome| outcome.held() == Some(reason))
    }

    /// What counts what the rules refused for this reason.
    #[must_use]
    pub fn of_refused(reason: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|outcome| outcome.refused_for() == Some(reason))
    }
}

#[cfg(test)]
mod tests {
    use mailsteer_core::model::RefuseReason;

    use super::*;

    #[test]
    fn whatever_the_rules_refuse_is_counted() {
        for reason in RefuseReason::ALL {
            assert!(Outcome::of_refused(reason.as_str()).is_some(), "{}", reason.as_str());
        }
    }
}
