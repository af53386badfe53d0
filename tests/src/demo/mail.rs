//! Mail: messages handed to Postfix at a steady pace, and connections beside them for a finer measure of time.
//!
//! Owns: pace and counts of what is sent. Must not: care where it leaves from.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::interrupt;
use super::screen::Screen;
use super::stage::{Stage, Stream, TAG};
use super::table;
use crate::load::{Load, Report, Running};
use crate::poll;
use crate::postfix::UID;

/// Messages handed in over one connection, and how long between two such.
const BATCH: usize = 20;
const BETWEEN: Duration = Duration::from_millis(250);
/// How long all messages may take: far longer than they do, so that only a fault is one.
const WITHIN: Duration = Duration::from_secs(60);
/// How often the live table is drawn.
const REDRAW: Duration = Duration::from_millis(250);

/// Delivers `count` messages under a live table.
pub(super) fn deliver(stage: &Stage, screen: &Screen, count: usize) -> Result<()> {
    screen.say(&format!(
        "{count} messages. Postfix is Debian's, unmodified. Marketing takes a transport\n\
         that binds the tag {TAG}, a private address that never reaches the wire:\n\
         by it mailsteer tells the streams apart. Postfix is told no public address.\n ",
    ));
    let mut live = screen.live();
    with_messages(stage, Some(count), || {
        poll::until(WITHIN, "the messages to be delivered", || {
            interrupt::pause(REDRAW)?;
            live.draw(&table::text(stage)?);
            Ok((stage.receiver.messages() >= count).then_some(()))
        })
    })?;
    live.end(&table::text(stage)?);
    Ok(())
}

/// What came of the traffic beside a piece of the story.
pub(super) struct Traffic {
    messages: usize,
    connections: u64,
    failed: BTreeMap<String, u64>,
    pub(super) slowest_ms: f64,
}

/// Mail, and `rate` connections a second in each stream beside it, while `work` goes on.
pub(super) fn with_traffic<T>(
    stage: &Stage,
    rate: u32,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Traffic)> {
    let before = stage.handed_in.get();
    let running = Stream::BOTH.map(|stream| load(stage, stream, rate));
    let done = with_messages(stage, None, work);
    let messages = stage.handed_in.get() - before;
    let mut traffic = Traffic { messages, connections: 0, failed: BTreeMap::new(), slowest_ms: 0.0 };
    for load in running {
        traffic.add(load?.stop()?);
    }
    Ok((done?, traffic))
}

fn load(stage: &Stage, stream: Stream, rate: u32) -> Result<Running> {
    let load = Load {
        rate,
        count: 0,
        uid: UID,
        gid: UID,
        bind: (stream == Stream::Marketing).then(|| TAG.parse()).transpose()?,
        to: vec![stream.load_to()],
        cgroup: Some(stage.lab.cgroup()?.to_owned()),
        ..Load::default()
    };
    load.start(&stage.lab.mail)
}

impl Traffic {
    fn add(&mut self, report: Report) {
        self.connections += report.attempts;
        self.slowest_ms = self.slowest_ms.max(report.max_ms);
        for (error, count) in report.failed {
            *self.failed.entry(error).or_default() += count;
        }
    }

    /// Connections that failed.
    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// In one line.
    pub(super) fn text(&self) -> String {
        let named: Vec<_> = self.failed.iter().map(|(error, count)| format!("{count} {error}")).collect();
        let named = if named.is_empty() { String::new() } else { format!(" ({})", named.join(", ")) };
        format!(
            "{} messages and {} other connections: {} failed{named}, slowest {:.0} ms",
            self.messages,
            self.connections,
            self.failures(),
            self.slowest_ms
        )
    }
}

/// Hands in messages of both streams by turns while `work` goes on, `most` at most.
fn with_messages<T>(stage: &Stage, most: Option<usize>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let postfix = &stage.postfix;
    let (stop, stopped) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let mailer = scope.spawn(move || -> Result<usize> {
            let mut first = 0;
            loop {
                let count = most.map_or(BATCH, |most| BATCH.min(most - first));
                if count == 0 {
                    return Ok(first);
                }
                postfix.submit(count, |n| Stream::BOTH[(first + n) % 2].recipient((first + n) / 2))?;
                first += count;
                if stopped.recv_timeout(BETWEEN) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return Ok(first);
                }
            }
        });
        let done = work();
        drop(stop);
        let handed_in = mailer.join().map_err(|_| anyhow!("the mailer panicked"))??;
        stage.handed_in.update(|before| before + handed_in);
        done
    })
}

/// What Postfix's log says became of the messages.
pub(super) struct Fate {
    pub(super) sent: usize,
    pub(super) other: usize,
}

/// Asks the log, once all that was handed in is sent, or time is up.
pub(super) fn fate(stage: &Stage) -> Result<Fate> {
    let mut fate = Fate { sent: 0, other: 0 };
    let waited = poll::until(WITHIN, "every message to be sent", || {
        interrupt::check()?;
        let deliveries = stage.postfix.deliveries()?;
        fate.sent = deliveries.iter().filter(|d| d.status == "sent").count();
        fate.other = deliveries.len() - fate.sent;
        Ok((fate.sent >= stage.handed_in.get()).then_some(()))
    });
    interrupt::check()?;
    // That some are missing is for the summary to say.
    waited.ok();
    Ok(fate)
}
