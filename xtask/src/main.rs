//! Every developer's and CI's recipe: `cargo xtask demo`, `test`, `setup`, `ebpf`, `guards`, `bench`, `endure`,
//! `fuzz`, `man`, `deb`.
//!
//! Owns: the command line, and nothing else. Each recipe is a module.

use std::process::ExitCode;

use clap::Parser;

mod bench;
mod deb;
mod demo;
mod document;
mod ebpf;
mod endure;
mod fuzz;
mod guards;
mod kernel;
mod man;
mod programs;
mod run;
mod setup;
mod test;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The recipes of mailsteer's developers and of its CI")]
enum Recipe {
    /// What mailsteer does, on a small internet of its own, in a minute.
    Demo(demo::Args),
    /// Installs what the other recipes need; quick when all is there.
    Setup(setup::Args),
    /// Every check and every test.
    Test(test::Args),
    /// The eBPF object.
    Ebpf(ebpf::Args),
    /// Takes the guard of each invariant away, in a copy, and sees its test fail; takes half an hour.
    Guards(guards::Args),
    /// Man pages and shell completions, from the command line's own definition.
    Man(man::Args),
    /// The Debian package, in target/debian.
    Deb(deb::Args),
    /// What the number of sources costs: times, memory, idle CPU.
    Bench(bench::Args),
    /// Hostile input for every parser of foreign bytes and text: ten minutes a target.
    Fuzz(fuzz::Args),
    /// A million connections, while the table is flushed, the agent killed, the config read again and sources flipped, at
    /// random: do receivers and counts agree, and does anything grow?
    Endure(endure::Args),
}

fn main() -> ExitCode {
    let done = match Recipe::parse() {
        Recipe::Demo(args) => demo::run(&args),
        Recipe::Setup(args) => setup::run(&args),
        Recipe::Test(args) => test::run(&args),
        Recipe::Ebpf(args) => ebpf::run(&args),
        Recipe::Guards(args) => guards::run(&args),
        Recipe::Man(args) => man::run(&args),
        Recipe::Deb(args) => deb::run(&args),
        Recipe::Bench(args) => bench::run(&args),
        Recipe::Fuzz(args) => fuzz::run(&args),
        Recipe::Endure(args) => endure::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a backtrace: what went wrong is in the sentence.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
