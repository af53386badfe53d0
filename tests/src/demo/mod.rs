//! The demo: what mailsteer does, shown in a minute on a small internet of its own.
//!
//! Owns: the story, step by step, and the verdict at its end. Must not: claim what it did not measure. Addresses
//! are counted by the capture at the receivers' interface and in the receivers' own record, never by mailsteer alone.

mod claims;
mod flush;
pub mod interrupt;
mod mail;
mod moves;
mod screen;
mod stage;
mod table;

use std::time::{Duration, Instant};

use anyhow::Result;

use self::claims::Claims;
use self::screen::Screen;
use self::stage::Stage;

/// How many messages the first delivery has.
const MESSAGES: usize = 400;

/// Tells the whole story; true when every claim held.
///
/// # Errors
/// When something could not be set up, or the user interrupted. Everything is taken away all the same.
pub fn run() -> Result<bool> {
    interrupt::watch()?;
    let began = Instant::now();
    let screen = Screen::new();
    let mut claims = Claims::default();
    screen.say(INTRODUCTION);
    let stage = Stage::build(&screen)?;
    mail::deliver(&stage, &screen, MESSAGES)?;
    moves::show(&stage, &screen, &mut claims)?;
    flush::show(&stage, &screen, &mut claims)?;
    finish(stage, &screen, &mut claims)?;
    Ok(summary(&screen, &claims, began.elapsed()))
}

const INTRODUCTION: &str = "\
mailsteer decides which address each outbound SMTP connection leaves from,
beneath an MTA that knows nothing of it. Here it is at work, in network
namespaces of its own: this machine's network is not touched. Ctrl-C ends it
and tidies up.";

/// Stops everything, and looks at all of it once more.
fn finish(stage: Stage, screen: &Screen, claims: &mut Claims) -> Result<()> {
    screen.step("What the wire saw");
    let fate = mail::fate(&stage)?;
    let handed_in = stage.handed_in.get();
    claims.add("messages delivered by Postfix", &handed_in.to_string(), fate.sent, |n| *n == handed_in);
    claims.add("messages deferred or bounced", "0", fate.other, |n| *n == 0);
    let counted = table::settled(&stage)?;
    let seen = u64::try_from(stage.receiver.count())?;
    let misplaced = stage.misplaced();
    let (wire, left) = stage.close()?;
    let packets: u64 = wire.by_source.values().map(|seen| seen.packets).sum();
    let others = wire.others(&stage::sources());
    screen.say(&format!(
        "A capture at the receivers' interface, past all that mailsteer does, saw\n\
         {packets} packets to port 25; {} of them came from an address of no pool.\n\
         The receivers saw {seen} connections, {misplaced} of them from the other stream's pool.",
        wire.packets_of_others(&stage::sources()),
    ));
    others.iter().for_each(|line| screen.say(line));
    claims.add("wrong addresses on the wire", "0", others.len() + misplaced, |n| *n == 0);
    claims.add("packets that the capture missed", "0", wire.lost, |n| *n == 0);
    let expected = seen.to_string();
    claims.add("connections counted, each once", &expected, counted, |n| *n == seen);
    left.iter().for_each(|line| screen.say(&format!("left behind: {line}")));
    claims.add("left behind on this machine", "nothing", left.len(), |n| *n == 0);
    Ok(())
}

fn summary(screen: &Screen, claims: &Claims, took: Duration) -> bool {
    screen.step("Summary");
    screen.say(&claims.table());
    let verdict = if claims.hold() { "Everything held." } else { "Not everything held: see FAILED above." };
    screen.say(&format!("\n{verdict} It took {:.0} s.", took.as_secs_f64()));
    if claims.hold() {
        screen.say("\nNext: README.md, \"First config\". `cargo xtask test` runs all tests.");
    }
    claims.hold()
}
