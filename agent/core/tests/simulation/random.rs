//! Thousands of random worlds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use mailsteer_core::decide::EVERYWHERE;

use super::checks;
use super::run::Run;
use super::spec::Spec;

/// How many.
const WORLDS: u64 = 10_000;

/// One of so many is gone on with until everybody is back: that is hours of its time.
const FOLLOWED: u64 = 10;

/// What happened in all of them, so that nobody takes worlds in which nothing happens for a proof.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    isolations: usize,
    withheld: usize,
    networks: usize,
    everywhere: usize,
    flips: usize,
    by_chance: usize,
    refused: u64,
    /// Worlds that had anybody to wait for, and the longest wait in hours.
    back: usize,
    longest: i64,
}

impl Sum {
    fn of(run: &Run<'_>, by_chance: usize) -> Self {
        let isolations = run.agent.isolations();
        let everywhere = isolations.iter().filter(|(_, _, provider, _)| provider == EVERYWHERE).count();
        Self {
            isolations: isolations.len(),
            withheld: run.agent.count("flip-withheld"),
            networks: run.agent.count("network-isolated"),
            everywhere,
            flips: run.agent.count("source-ineligible"),
            by_chance,
            refused: run.tally.refused.values().sum(),
            back: 0,
            longest: 0,
        }
    }

    fn add(&mut self, other: Self) {
        self.isolations += other.isolations;
        self.withheld += other.withheld;
        self.networks += other.networks;
        self.everywhere += other.everywhere;
        self.flips += other.flips;
        self.by_chance += other.by_chance;
        self.refused += other.refused;
        self.back += other.back;
        self.longest = self.longest.max(other.longest);
    }
}

fn world(seed: u64) -> Result<Sum, String> {
    let spec = Spec::random(seed);
    let mut run = Run::whole(&spec)?;
    let (by_chance, others) = checks::innocent(&spec, &run.agent);
    if !others.is_empty() {
        return Err(format!("innocent: {others:?}"));
    }
    let mut sum = Sum::of(&run, by_chance);
    if seed.is_multiple_of(FOLLOWED) {
        let waited = run.until_all_are_back()?;
        sum.back = usize::from(waited > 0);
        sum.longest = waited / 3_600_000;
    }
    Ok(sum)
}

/// What one thread saw: of worlds in which nothing broke all of it, of the others which and what.
fn work(next: &AtomicU64) -> (Sum, Vec<(u64, String)>) {
    let (mut sum, mut broken) = (Sum::default(), Vec::new());
    while broken.len() < 10 {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= WORLDS {
            break;
        }
        match world(seed) {
            Ok(one) => sum.add(one),
            Err(error) => broken.push((seed, error)),
        }
    }
    (sum, broken)
}

#[test]
fn nothing_breaks_in_ten_thousand_worlds() {
    let next = AtomicU64::new(0);
    let seen: Vec<(Sum, Vec<(u64, String)>)> = thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(|| work(&next))).collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).collect()
    });
    let (mut all, mut broken) = (Sum::default(), Vec::new());
    for (sum, worlds) in seen {
        all.add(sum);
        broken.extend(worlds);
    }
    broken.sort();
    if let Some((seed, _)) = broken.first() {
        let list: Vec<String> = broken.iter().map(|(seed, error)| format!("world {seed}: {error}")).collect();
        panic!("{}\nthe first of them, to be run again: {:#?}", list.join("\n"), Spec::random(*seed));
    }
    println!("{WORLDS} worlds: {all:?}");
    assert!(all.isolations > 2_000 && all.withheld > 100 && all.networks > 5 && all.flips > 1_000, "{all:?}");
    assert!(all.everywhere > 50 && all.refused > 10_000 && all.back > 100, "{all:?}");
    // Of these worlds a right judge isolates nobody by chance alone: measured, see `evidence`. Ten would be a hundred times that.
    assert!(all.by_chance < 10, "{all:?}");
}

/// Runs one world again, by its seed.
#[test]
fn one_world() {
    let seed = std::env::var("MAILSTEER_WORLD").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let spec = Spec::random(seed);
    println!("{spec:#?}");
    let mut run = Run::new(&spec).expect("a world");
    let broken = run.until(spec.lasts).and_then(|()| run.until_all_are_back());
    for (at, event) in &run.agent.events {
        println!("{at:>7} ms  {}", event.kind);
        if let mailsteer_core::decide::EventKind::Verdict { evidence: Some(evidence), .. } = &event.kind {
            println!("            {}", serde_json::to_string(evidence).expect("text"));
        }
    }
    println!("{:?}", run.tally);
    let (_, others) = checks::innocent(&spec, &run.agent);
    assert!(others.is_empty() && broken.is_ok(), "{others:?} {broken:?}");
}
