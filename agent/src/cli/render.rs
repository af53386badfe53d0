//! How answers are shown to people: aligned columns without borders.
//!
//! Owns: text. Must not: print, or ask anything.

use std::fmt::Write as _;
use std::net::IpAddr;

use mailsteer_core::config::{OTHER, Tier};

use crate::api::view::*;

/// The width of what is no table.
const WIDTH: usize = 100;

/// Text and its colours.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) color: bool,
}

impl Style {
    pub(super) fn good(self, text: &str) -> String {
        self.level(Level::Ok, text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.level(Level::Broken, text)
    }

    pub(super) fn level(self, level: Level, text: &str) -> String {
        let code = match level {
            Level::Ok => "32",
            Level::Attention => "33",
            Level::Broken => "31;1",
        };
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Columns two spaces apart; those in `right` are numbers.
pub(super) fn table(head: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head: Vec<String> = head.iter().map(|h| (*h).to_owned()).collect();
    let mut out = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Numbers keep their distance by themselves.
            let number = right.contains(&n);
            let gap = if n == 0 {
                ""
            } else if number && right.contains(&(n - 1)) {
                " "
            } else {
                "  "
            };
            // By hand: a format knows no width beyond 65,535.
            let room = " ".repeat(width - cell.chars().count());
            let (before, after) = if number { (room.as_str(), "") } else { ("", room.as_str()) };
            line.extend([gap, before, cell, after]);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn tier(tier: Tier) -> String {
    match tier {
        Tier::Primary => "primary".to_owned(),
        Tier::Spare => "spare".to_owned(),
    }
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

pub(super) fn moment(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A short time as people say it: `420 µs`, `3.1 ms`, `120 ms`, `2.4 s`.
fn short(ms: f64) -> String {
    match ms {
        ..1.0 => format!("{:.0} µs", ms * 1_000.0),
        ..10.0 => format!("{ms:.1} ms"),
        ..1_000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1_000.0),
    }
}

/// Lines of at most [`WIDTH`] characters: the first after `head`, the others below it.
pub(super) fn wrapped(head: &str, text: &str) -> String {
    let indent = head.chars().count();
    let (mut out, mut column) = (head.to_owned(), indent);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > indent && column + 1 + length > WIDTH {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        }
        if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
    out
}

fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

pub(super) fn status(s: &Status, style: Style) -> String {
    let mut out = style.level(s.headline.level, &s.headline.sentence);
    out.push('\n');
    if !s.headline.advice.is_empty() {
        out.push_str(&wrapped("  ", &s.headline.advice));
    }
    let on = |held: bool| if held { "held" } else { "OPEN" };
    let owned = if s.locks.table_owned { ", owned" } else { "" };
    let guard = match (&s.locks.guard_error, s.locks.guard, s.locks.guard_armed) {
        (Some(_), ..) => "none".to_owned(),
        (None, true, false) => "counts only".to_owned(),
        (None, held, _) => on(held).to_owned(),
    };
    let _ = writeln!(
        out,
        "\nlocks      {} of 2 · table {}{owned} · guard {guard}",
        s.locks.held(),
        on(s.locks.table)
    );
    for unseen in s.locks.unseen() {
        out.push_str(&wrapped("not seen   ", unseen));
    }
    let config = s.config.file.as_deref().unwrap_or("none (observes)");
    let _ =
        writeln!(out, "config     {config}{}", if s.config.error.is_some() { " · BAD ON DISK" } else { "" });
    for line in s.config.error.iter().flat_map(|e| e.lines()) {
        let _ = writeln!(out, "           {line}");
    }
    let age = s.reconcile_age_seconds.map_or_else(|| "never".to_owned(), |a| format!("{a:.0}s ago"));
    let up = span(s.uptime_seconds);
    let _ =
        writeln!(out, "agent      {} · up {up} · reconciled {age} · {} repairs", s.version, s.table_repairs);
    counted(s, &mut out);
    if let Some(used) = s.conntrack_used_ratio {
        let _ = writeln!(out, "conntrack  {:.1} % used", used * 100.0);
    }
    let rows: Vec<_> = s.streams.iter().map(stream).collect();
    if !rows.is_empty() {
        let _ = write!(out, "\n{}", table(&["STREAM", "MODE", "POOL", "MATCHES"], &[], &rows));
    }
    let rows: Vec<_> = s
        .pools
        .iter()
        .map(|p| {
            let mut eligible = format!("{}/{}", p.eligible, p.total);
            if p.suspended > 0 {
                let _ = write!(eligible, " ({} suspended)", p.suspended);
            }
            vec![p.pool.clone(), tier(p.tier), p.family.to_string(), eligible]
        })
        .collect();
    if !rows.is_empty() {
        let _ = write!(out, "\n{}", table(&["POOL", "TIER", "FAMILY", "ELIGIBLE"], &[], &rows));
    }
    operator(s, &mut out);
    out
}

fn counted(s: &Status, out: &mut String) {
    let t = s.totals;
    let last =
        |last: Option<jiff::Timestamp>| last.map_or_else(String::new, |l| format!(" (last {})", moment(l)));
    let left = match s.locks.guard_error {
        None => format!("{} packets left{}", t.wrong, last(t.wrong_last)),
        Some(_) => "what left is not seen".to_owned(),
    };
    let _ = writeln!(
        out,
        "counted    {} connections, {} established · {} refused · {} packets held\n\
         wrong      {left} · {} stopped{}",
        t.attempts,
        t.established,
        t.refused,
        t.held,
        t.stopped,
        last(t.stopped_last)
    );
}

fn stream(s: &StreamState) -> Vec<String> {
    let mode = match s.mode {
        StreamMode::Canary => format!("canary {}.{} %", s.share / 10, s.share % 10),
        mode => mode.as_str().to_owned(),
    };
    vec![s.name.clone(), mode, s.pool.clone(), s.matches.clone()]
}

fn operator(s: &Status, out: &mut String) {
    if !s.suspended.is_empty() || !s.bypasses.is_empty() || !s.faults.is_empty() || s.hold.is_some() {
        out.push('\n');
    }
    for x in &s.suspended {
        let until = x.until.map_or_else(|| "resumed".to_owned(), moment);
        out.push_str(&wrapped("suspended  ", &format!("{} until {until}: {}", x.source, x.reason)));
    }
    for x in &s.bypasses {
        out.push_str(&wrapped(
            "bypass     ",
            &format!("{} until {}: {}", x.stream, moment(x.until), x.reason),
        ));
    }
    if let Some(hold) = &s.hold {
        let until = hold.until.map_or_else(|| "it is ended".to_owned(), moment);
        out.push_str(&wrapped("on hold    ", &format!("until {until}: {}", hold.reason)));
    }
    for fault in &s.faults {
        out.push_str(&wrapped("fault      ", fault));
    }
}

pub(super) fn sources(rows: &[SourceRow]) -> String {
    if rows.is_empty() {
        return "there are no sources: the config has no pool\n".to_owned();
    }
    let head = ["SOURCE", "PUBLIC", "POOL", "TRIED", "OK", "REFUSED", "SILENT", "RESET", "OPEN", "STATE"];
    let cells: Vec<_> = rows.iter().map(source).collect();
    let mut out = table(&head, &[3, 4, 5, 6, 7, 8], &cells);
    // Reasons are sentences: beneath the table they do not stretch it.
    for row in rows.iter().filter(|row| !row.reason.is_empty()) {
        out.push_str(&wrapped(&format!("{}: ", row.name), &row.reason));
    }
    if rows.iter().any(|row| row.counters.partial) {
        out.push_str("-: not seen without eBPF, see `mailsteer status`\n");
    }
    out
}

fn source(r: &SourceRow) -> Vec<String> {
    let c = r.counters;
    let mut pool = r.pools.join(",");
    if r.weight != 1 {
        let _ = write!(pool, " x{}", r.weight);
    }
    if r.tier == Tier::Spare {
        pool.push_str(" spare");
    }
    let mut row = vec![r.name.clone(), r.public.to_string(), pool];
    let refused = c.refused.saturating_add(c.unreachable);
    row.extend([c.attempts, c.established, refused].iter().map(u64::to_string));
    let unseen = |count: u64| if c.partial { "-".to_owned() } else { count.to_string() };
    row.extend([c.unanswered, c.reset, c.open].map(unseen));
    row.push(r.state.as_str().to_owned());
    row
}

/// A history is printed as it comes, so its columns have fixed widths.
pub(super) const CONNECTIONS_HEAD: &str =
    "TIME            PID     UID   STREAM        SOURCE          LEFT FROM       TO                 OUTCOME";

pub(super) fn connection(r: &ConnectionRow) -> String {
    let wanted = r.wanted_address.filter(|w| r.real_address.is_some_and(|real| real != *w));
    let wrong = wanted.map_or_else(String::new, |w| format!(" WRONG, wanted {w}"));
    let again = if r.retransmits > 0 { format!(" +{} SYN", r.retransmits) } else { String::new() };
    format!(
        "{} {:<7} {:<5} {:<13} {:<15} {:<15} {:<18} {} {}{again}{wrong}",
        r.time.strftime("%m-%d %H:%M:%SZ"),
        or_dash(r.pid),
        or_dash(r.uid),
        or_dash(r.stream.as_deref()),
        or_dash(r.wanted_source.as_deref()),
        or_dash(r.real_address),
        socket(r.destination, r.destination_port),
        r.outcome.as_str(),
        short(r.handshake_ms),
    )
}

/// The text says what it is about. What it rests on is for those who ask.
pub(super) fn event(r: &EventRow, verbose: bool) -> String {
    let mut out = format!("{:>6}  {}  {:<17}  {}", r.number, moment(r.time), r.kind, r.text);
    if verbose {
        for (name, value) in &r.evidence {
            let _ = write!(out, "\n    {name}: {value}");
        }
    }
    out
}

pub(super) fn explanation(e: &Explanation) -> String {
    let mut out = format!("{}: {}\n", socket(e.destination.address, e.destination.port), e.result);
    if !e.streams.is_empty() {
        let row = |s: &StreamStep| {
            vec![s.stream.clone(), if s.matched { "matched" } else { "no" }.to_owned(), s.why.clone()]
        };
        let rows: Vec<_> = e.streams.iter().map(row).collect();
        let _ = write!(out, "\n{}", table(&["STREAM", "MATCH", "WHY"], &[], &rows));
    }
    if let Some(pool) = &e.pool {
        let row = |s: &SourceStep| {
            let share = format!("{:.1} %", s.share * 100.0);
            vec![s.source.clone(), s.address.to_string(), tier(s.tier), share, s.why.clone()]
        };
        let rows: Vec<_> = e.sources.iter().map(row).collect();
        let provider = e.provider.as_deref().unwrap_or("-");
        let _ = writeln!(out, "\npool {pool}, {}, provider {provider}", e.family);
        if let Some(by) = e.provider_by.as_deref().filter(|_| provider != OTHER) {
            let _ = writeln!(out, "provider told by {by}\n");
        }
        out.push_str(&table(&["SOURCE", "ADDRESS", "TIER", "SHARE", "WHY NOT"], &[3], &rows));
    }
    for text in &e.assumed {
        let _ = writeln!(out, "assumed: {text}");
    }
    out
}

pub(super) fn plan(rows: &[PlanRow]) -> String {
    if rows.is_empty() {
        return "nothing to do: everything is as it should be\n".to_owned();
    }
    rows.iter().enumerate().fold(String::new(), |mut out, (n, row)| {
        let _ = writeln!(out, "{:>3}. {}", n + 1, row.text);
        out
    })
}

pub(super) fn tried(t: &TryResult) -> String {
    let mut out = format!("{}\n\n", t.result);
    let _ = writeln!(out, "socket   {} cookie {}", or_dash(t.probe.local), t.probe.cookie);
    if let Some(c) = &t.connection {
        let wanted = match (&c.wanted_source, c.wanted_address) {
            (Some(source), Some(address)) => format!("{source} {address}"),
            (_, address) => or_dash(address),
        };
        let _ = writeln!(out, "wanted   {wanted}\nreal     {}", or_dash(c.real_address));
    }
    let said = t.probe.banner.as_deref().or(t.probe.error.as_deref()).unwrap_or("-");
    let _ = writeln!(out, "answer   {said} ({})\n", short(t.probe.connect_ms));
    out + &explanation(&t.explanation)
}

pub(super) fn teardown(r: &TeardownReport) -> String {
    let mut out = String::new();
    for text in &r.removed {
        let _ = writeln!(out, "removed  {text}");
    }
    for text in &r.left {
        let _ = writeln!(out, "LEFT     {text}");
    }
    if r.left.is_empty() {
        out.push_str("nothing of mailsteer is left; mail leaves unsteered\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn a_cell_may_be_longer_than_any_format_is_wide() {
        let long = "x".repeat(70_000);
        let shown = table(
            &["A", "B", "N"],
            &[2],
            &[vec![long.clone(), "b".into(), "1".into()], vec!["a".into(), String::new(), "22".into()]],
        );
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[1], format!("{long}  b   1"));
        assert_eq!(lines[2].len(), lines[1].len());
    }
}
