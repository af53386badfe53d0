//! `cargo xtask bench connect`: what steering costs a connection, beside rules by hand and no steering.
//!
//! Owns: which sizes, the table, and the marks it is held against. Must not: measure; the program `lab-connect` of the
//! tests' package does, one size a process.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::spread::Spread;
use crate::document;

/// `cargo xtask bench connect ...`
#[derive(clap::Args)]
pub(super) struct Args {
    /// Writes every figure to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the tables to docs/performance.md.
    #[arg(long)]
    write: bool,
    /// Bursts of each way; each is compared with its neighbours in time.
    #[arg(long, default_value_t = 40)]
    pairs: usize,
    /// Numbers of sources. 4,096 do not fit: the mark has room for 4,079.
    #[arg(long, value_delimiter = ',', default_values_t = [4, 64, 1024, 4079])]
    sizes: Vec<u32>,
    /// The order of bursts comes from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Installs what is missing without asking.
    #[arg(long)]
    yes: bool,
}

/// What mailsteer's rate is to be of the hand-written rule's.
const WANTED_RATIO: f64 = 0.93;
/// Nanoseconds: all programs for a packet that is none of ours; the guard, and flow tracking, for a packet of a short connection.
const WANTED_NS: [f64; 3] = [40.0, 30.0, 450.0];

/// Ways, as `lab-connect` has them, and what they are called.
const WAYS: [(&str, &str); 4] = [
    ("none", "no steering"),
    ("numgen", "numgen SNAT by hand"),
    ("iptables", "iptables, statistic"),
    ("mailsteer", "mailsteer"),
];
const CROWDS: [(&str, &str); 2] = [("one", "one thread"), ("all", "all cores")];
const FOLLOWERS: [&str; 2] = ["flow_out", "flow_in"];

/// What `lab-connect` answers with.
#[derive(Serialize, Deserialize)]
struct Measured {
    sources: u32,
    figures: BTreeMap<String, BTreeMap<String, Vec<Figure>>>,
    programs: Vec<Cost>,
    missing: BTreeMap<String, String>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Figure {
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
}

#[derive(Serialize, Deserialize)]
struct Cost {
    case: String,
    program: String,
    ns_per_run: f64,
    runs: f64,
    net_ns: f64,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<()> {
    super::prepare("bench connect", args.yes, true)?;
    let mut measured = Vec::new();
    for size in &args.sizes {
        println!("{size} sources, {} bursts of each way", args.pairs);
        let args = [size.to_string(), args.pairs.to_string(), args.seed.to_string()];
        measured.push(super::ask::<Measured>("lab-connect", &args)?);
    }
    super::tell("bench connect", &text(&measured)?, &measured, args.json.as_deref(), args.write)
}

fn text(measured: &[Measured]) -> Result<String> {
    let mut text = format!("{}.\n", document::machine()?);
    for (crowd, called) in CROWDS {
        text.push_str(&format!("\n### {}\n\n", capital(called)));
        text.push_str(
            "| sources | way | connections a second | p50, us | p99, us | CPU for one, us | rate beside the rule by \
             hand |\n|---|---|---|---|---|---|---|\n",
        );
        for size in measured {
            rows(size, crowd, &mut text);
        }
    }
    text.push_str("\n### eBPF programs\n\n");
    for size in measured {
        programs(size, &mut text);
    }
    Ok(text)
}

fn rows(size: &Measured, crowd: &str, text: &mut String) {
    let figures = |way: &str| size.figures.get(crowd).and_then(|ways| ways.get(way));
    for (way, called) in WAYS {
        let Some(own) = figures(way) else {
            let why = size.missing.get(way).map_or("not measured", String::as_str);
            let why = why.lines().next().unwrap_or_default().replace('|', "/");
            text.push_str(&format!("| {} | {called} | not here: {why} | | | | |\n", size.sources));
            continue;
        };
        let cell = |of: fn(&Figure) -> f64, digits: usize| {
            let Some(spread) = Spread::of(own.iter().map(of).collect()) else { return String::new() };
            let [low, high] = spread.quartiles;
            format!("{:.digits$} ({low:.digits$}-{high:.digits$})", spread.median)
        };
        text.push_str(&format!(
            "| {} | {called} | {} | {} | {} | {} | {} |\n",
            size.sources,
            cell(|figure| figure.rate, 0),
            cell(|figure| figure.p50_us, 0),
            cell(|figure| figure.p99_us, 0),
            cell(|figure| figure.cpu_us, 0),
            beside(way, own, figures("numgen")),
        ));
    }
}

/// Rate against that of the burst of the rule by hand which was next to it.
fn beside(way: &str, own: &[Figure], hand: Option<&Vec<Figure>>) -> String {
    let Some(hand) = hand.filter(|_| way != "numgen") else { return String::new() };
    let ratios = own.iter().zip(hand).map(|(own, hand)| own.rate / hand.rate);
    let Some(Spread { median, interval: [low, high], .. }) = Spread::of(ratios.collect()) else {
        return String::new();
    };
    let mark = match way {
        "mailsteer" if high < WANTED_RATIO => format!(", **short of {WANTED_RATIO}**"),
        "mailsteer" if median < WANTED_RATIO => format!(", **short of {WANTED_RATIO}**, if not for sure"),
        "mailsteer" if low < WANTED_RATIO => format!(", not for sure {WANTED_RATIO}"),
        _ => String::new(),
    };
    format!("{median:.3} [{low:.3}, {high:.3}]{mark}")
}

fn programs(size: &Measured, text: &mut String) {
    text.push_str(&format!(
        "{} sources:\n\n| case | program | ns a run | runs | net ns |\n|---|---|---|---|---|\n",
        size.sources
    ));
    for Cost { case, program, ns_per_run, runs, net_ns } in &size.programs {
        text.push_str(&format!("| {case} | `{program}` | {ns_per_run:.0} | {runs:.2} | {net_ns:.0} |\n"));
    }
    let sum = |case: &str, of: &dyn Fn(&Cost) -> bool| -> Option<f64> {
        let of_case =
            size.programs.iter().filter(|cost| cost.case == case && of(cost)).map(|cost| cost.net_ns);
        // What was not measured is not nothing.
        of_case.reduce(|one, other| one + other)
    };
    let ours = |program: &str| {
        size.programs.iter().find(|cost| cost.case == "connections" && cost.program == program)
    };
    let a_packet = |cost: &Cost| cost.net_ns / cost.runs;
    let following = FOLLOWERS.iter().filter_map(|program| ours(program)).map(a_packet).reduce(f64::max);
    let figures = [
        ("all for a packet that is none of ours", sum("foreign", &|cost| cost.program != "empty")),
        ("the guard for one that is", ours("guard").map(a_packet)),
        ("flow tracking for a packet of a short connection, the dearer way", following),
    ];
    text.push('\n');
    for ((what, is), wanted) in figures.into_iter().zip(WANTED_NS) {
        let is = match is {
            None => "not measured".to_owned(),
            Some(is) if is > wanted => format!("{is:.0} ns, **more than {wanted:.0}**"),
            Some(is) => format!("{is:.0} ns, at most {wanted:.0} wanted"),
        };
        text.push_str(&format!("- {what}: {is}\n"));
    }
    text.push('\n');
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
