//! Feeds, fetched as often as the config says.
//!
//! Owns: when each is fetched, and how that goes. Must not: read what came (the core's parsers do), or decide what follows; what a
//! feed says is told to the loop.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mailsteer_core::config::{Feed, FeedKind};
use mailsteer_core::decide::World;
use mailsteer_core::signal::feeds::{self, FeedEvent, JsonRule, Reading, Standing};
use tokio::sync::mpsc::WeakSender;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::reconcile::Trigger;
use super::shared::Shared;
use crate::observe::feed::Fetcher;

/// What failed is fetched again after this, or after the interval where that is shorter.
const AGAIN: Duration = Duration::from_secs(900);
/// Between two requests for addresses of one feed: nobody's quota is a flood.
const APART: Duration = Duration::from_millis(200);

/// What is to be fetched.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Wanted {
    feeds: Vec<Feed>,
    addresses: BTreeSet<IpAddr>,
}

impl Wanted {
    pub(super) fn of(world: &World) -> Self {
        Self {
            feeds: world.config().feeds.clone(),
            addresses: world.pool_sources().map(|source| source.public).collect(),
        }
    }
}

/// Begins to fetch whatever is wanted, and follows changes of that.
pub(super) fn spawn(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    mut wanted: watch::Receiver<Wanted>,
    shared: Arc<Shared>,
    triggers: WeakSender<Trigger>,
) {
    let (inner, stop) = (tasks.clone(), stop.clone());
    tasks.spawn(async move {
        let mut running = stop.child_token();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = wanted.changed() => if changed.is_err() {
                    return;
                },
            }
            running.cancel();
            running = stop.child_token();
            let Wanted { feeds, addresses } = wanted.borrow_and_update().clone();
            shared.set_feeds(feeds.iter().map(|feed| feed.name.clone()));
            for feed in feeds {
                let addresses: Vec<IpAddr> = addresses.iter().copied().collect();
                let feeder = Feeder {
                    fetcher: Fetcher::new(&feed),
                    feed,
                    addresses,
                    shared: Arc::clone(&shared),
                    triggers: triggers.clone(),
                };
                let ended = running.clone();
                inner.spawn(async move {
                    tokio::select! {
                        () = ended.cancelled() => {}
                        () = feeder.run() => {}
                    }
                });
            }
        }
    });
}

struct Feeder {
    fetcher: Fetcher,
    feed: Feed,
    addresses: Vec<IpAddr>,
    shared: Arc<Shared>,
    triggers: WeakSender<Trigger>,
}

impl Feeder {
    async fn run(self) {
        let interval = Duration::try_from(self.feed.interval).unwrap_or(AGAIN);
        let mut standing = Standing::default();
        loop {
            let read = match &self.feed.kind {
                FeedKind::Snds { data, status } => self.snds(data, status.as_deref()).await,
                FeedKind::Json { url, rule } => self.json(url, rule).await,
            };
            let (readings, went) = match read {
                Ok(readings) => (readings, Ok(())),
                Err(why) => (vec![], Err(why)),
            };
            if let Err(why) = &went {
                debug!(feed = %self.feed.name, "feed {} was not read: {why}", self.feed.name);
            }
            let pause = if went.is_ok() { interval } else { interval.min(AGAIN) };
            let feed = self.feed.name.clone();
            let told = standing.took(&feed, went);
            self.shared.set_feed(&feed, &standing);
            let said = (!readings.is_empty()).then_some(FeedEvent::Read { feed, readings });
            let said: Vec<FeedEvent> = said.into_iter().chain(told).collect();
            if !said.is_empty()
                && let Some(triggers) = self.triggers.upgrade()
            {
                // A loop that has ended needs to hear of nothing.
                let _ended = triggers.send(Trigger::Feeds(said)).await;
            }
            // Not all hosts of a site at the same moment.
            tokio::time::sleep(pause.mul_f64(1.0 + fastrand::f64() / 10.0)).await;
        }
    }

    async fn snds(&self, data: &str, status: Option<&str>) -> Result<Vec<Reading>, String> {
        let text = self.text(data, None).await?.unwrap_or_default();
        let rows = feeds::data(&text).map_err(|error| error.to_string())?;
        let ranges = match status {
            None => vec![],
            Some(url) => {
                let text = self.text(url, None).await?.unwrap_or_default();
                feeds::statuses(&text).map_err(|error| error.to_string())?
            }
        };
        Ok(feeds::readings(rows, &ranges, &self.addresses, Timestamp::now()))
    }

    /// Of an address of which nothing is known there is no reading; the first that fails ends the round, for so would the others.
    async fn json(&self, url: &str, rule: &JsonRule) -> Result<Vec<Reading>, String> {
        let mut readings = vec![];
        for address in &self.addresses {
            if let Some(text) = self.text(url, Some(*address)).await? {
                let reading = rule.read(&text, *address, Timestamp::now());
                readings.push(reading.map_err(|error| error.to_string())?);
            }
            tokio::time::sleep(APART).await;
        }
        Ok(readings)
    }

    async fn text(&self, url: &str, address: Option<IpAddr>) -> Result<Option<String>, String> {
        self.fetcher.fetch(url, address).await.map_err(|error| error.to_string())
    }
}
