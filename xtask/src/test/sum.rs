//! What steps said, and the line that sums up.
//!
//! Owns: running a step, or several at a time, and counting. Must not: know what they test.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::steps::Step;
use crate::run;

/// What came of all of them.
#[derive(Default)]
pub(super) struct Sum {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
    failures: Vec<String>,
}

/// What a step said so far.
#[derive(Default)]
struct Heard {
    passed: u64,
    failed: u64,
    failures: Vec<String>,
    ignored: Vec<String>,
}

impl Heard {
    fn hear(&mut self, line: &str) {
        if let Some((passed, failed)) = counts(line) {
            self.passed += passed;
            self.failed += failed;
        }
        let Some(test) = line.strip_prefix("test ") else { return };
        if let Some(name) = test.strip_suffix(" ... FAILED") {
            self.failures.push(name.to_owned());
        }
        if let Some((name, why)) = test.split_once(" ... ignored") {
            self.ignored.push(format!("{name}: ignored{why}"));
        }
    }
}

impl Sum {
    pub(super) fn run(&mut self, step: Step) -> Result<()> {
        let Some(mut step) = self.unless_skipped(step) else { return Ok(()) };
        println!("\n==== {}", step.name);
        let (began, mut heard) = (Instant::now(), Heard::default());
        let ended_well = run::follow(&mut step.command, |line| heard.hear(line))?;
        self.add(&step, heard, ended_well, began.elapsed());
        Ok(())
    }

    /// Runs so many of each kind at a time, in their order. Each says what it has to say when it is done, and one alone at once.
    pub(super) fn run_together<const KINDS: usize>(
        &mut self,
        kinds: [(Vec<Step>, usize); KINDS],
    ) -> Result<()> {
        let mut kinds = kinds.map(|(steps, at_once)| {
            let steps = steps.into_iter().filter_map(|step| self.unless_skipped(step));
            (steps.collect::<VecDeque<_>>(), at_once)
        });
        if kinds.iter().map(|(steps, _)| steps.len()).sum::<usize>() == 1 {
            let alone = kinds.iter_mut().find_map(|(steps, _)| steps.pop_front());
            return alone.map_or(Ok(()), |alone| self.run(alone));
        }
        let (left, (send, done)) =
            (kinds.map(|(steps, at_once)| (Mutex::new(steps), at_once)), mpsc::channel());
        std::thread::scope(|scope| {
            for (steps, at_once) in &left {
                for _ in 0..*at_once {
                    let send = send.clone();
                    let next = || steps.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    scope.spawn(move || {
                        while let Some(step) = next()
                            && send.send(gather(step)).is_ok()
                        {}
                    });
                }
            }
            drop(send);
            done.iter().try_for_each(|one| {
                let (step, lines, ended_well, took) = one?;
                println!("\n==== {}", step.name);
                let mut heard = Heard::default();
                for line in &lines {
                    println!("{line}");
                    heard.hear(line);
                }
                self.add(&step, heard, ended_well, took);
                Ok(())
            })
        })
    }

    fn unless_skipped(&mut self, step: Step) -> Option<Step> {
        let Some(obstacle) = &step.obstacle else { return Some(step) };
        println!("\n==== SKIPPED {}: {obstacle}", step.name);
        self.skipped.push(format!("{}: {obstacle}", step.name));
        None
    }

    fn add(&mut self, step: &Step, heard: Heard, ended_well: bool, took: Duration) {
        let Heard { mut passed, mut failed, failures, ignored } = heard;
        // A check counts as one; so does a test program that died before it could count.
        match (ended_well, step.counts) {
            (true, false) => passed = 1,
            (false, _) => failed = failed.max(1),
            (true, true) => {}
        }
        println!("==== {}: {passed} passed, {failed} failed, {:.1} s", step.name, took.as_secs_f64());
        self.passed += passed;
        self.failed += failed;
        self.skipped.extend(ignored.iter().map(|test| format!("{}: {test}", step.name)));
        if failed > 0 {
            self.failures.push(format!("{}: {}", step.name, failures.join(", ")));
        }
    }

    pub(super) fn tell(self) -> Result<()> {
        println!();
        for failure in &self.failures {
            println!("FAILED  {failure}");
        }
        for skipped in &self.skipped {
            println!("SKIPPED {skipped}");
        }
        let skips =
            if self.skipped.is_empty() { String::new() } else { format!(", {} skipped", self.skipped.len()) };
        println!("{} passed, {} failed{skips}", self.passed, self.failed);
        if self.failed > 0 {
            bail!("tests failed");
        }
        if run::is_ci() && !self.skipped.is_empty() {
            bail!("CI may skip nothing");
        }
        Ok(())
    }
}

/// Runs a step to its end: what it printed, whether it ended well, and how long it took.
fn gather(mut step: Step) -> Result<(Step, Vec<String>, bool, Duration)> {
    let began = Instant::now();
    let output = step.command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {:?}", step.command))?;
    let lines = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    Ok((step, lines, output.status.success(), began.elapsed()))
}

/// The counts in a line such as `test result: ok. 5 passed; 0 failed; 0 ignored; ...`.
fn counts(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut numbers = rest.split("; ").map(|part| part.split(' ').next().and_then(|n| n.parse().ok()));
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn counts_are_read_from_the_line_that_cargo_prints() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
        assert_eq!(counts(line), Some((12, 3)));
        assert_eq!(counts("test result of another kind"), None);
    }
}
