//! Whether a feed can be read.
//!
//! Owns: when a failure is worth a word: servers of feeds are down for an hour now and then, and data that are days late do not
//! suffer. Must not: know the time.

use super::FeedEvent;

/// Tries in a row that come to nothing before it is said.
const TELL: u32 = 3;

/// How it went with a feed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Tries that came to nothing since the last that did not.
    failed: u32,
    /// Why the last one did.
    why: Option<String>,
}

impl Standing {
    /// A try came to an end; what is to be told of that.
    pub fn took(&mut self, feed: &str, went: Result<(), String>) -> Option<FeedEvent> {
        let feed = feed.to_owned();
        match went {
            Ok(()) => {
                let told = self.failed >= TELL;
                *self = Self::default();
                told.then_some(FeedEvent::Back { feed })
            }
            Err(why) => {
                self.failed = self.failed.saturating_add(1);
                self.why = Some(why.clone());
                (self.failed == TELL).then_some(FeedEvent::Failed { feed, why })
            }
        }
    }

    /// Why it cannot be read, where that was told.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.why.as_deref().filter(|_| self.failed >= TELL)
    }

    /// Whether the last try came to something, or nothing worth a word.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.failed < TELL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_after_three_failures_and_once_when_it_is_back() {
        let mut standing = Standing::default();
        let mut told = vec![];
        for well in [false, false, true, false, false, false, false, true, true] {
            told.push(
                standing.took("snds", if well { Ok(()) } else { Err("no answer".to_owned()) }).is_some(),
            );
            assert_eq!(standing.fault().is_none(), standing.is_up());
        }
        assert_eq!(told, [false, false, false, false, false, true, false, true, false]);
    }
}
