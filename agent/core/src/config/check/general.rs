//! Mode, ports, exclude, metrics, how much history is kept, and the two tables of a word each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::address::network;
use crate::config::problem::{Problem, code};
use crate::config::raw::{ModeWord, RawConfig, RawMode};
use crate::config::read::{At, Many};
use crate::config::settings::{Mode, Retention};

/// Ports by which mail leaves; any other is probably a slip.
const MAIL_PORTS: [u16; 4] = [25, 465, 587, 2525];
/// What is not steered unless the operator says otherwise.
const DEFAULT_EXCLUDE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

/// Days that history can be kept: up to ten years.
const DAYS: RangeInclusive<u32> = 1..=3_660;
/// Rows that can be kept of each kind. The newest 1,000 always are; of more than a million, looking takes seconds.
const ROWS: RangeInclusive<u32> = 1_000..=1_000_000;

/// The mode that is written.
pub(super) fn mode(raw: &At<RawMode>, problems: &mut Vec<Problem>) -> Mode {
    match &raw.value {
        RawMode::Word(ModeWord::Observe) => Mode::Observe,
        RawMode::Word(ModeWord::Enforce) => Mode::Enforce,
        RawMode::Canary(share) => canary(share, problems),
    }
}

fn canary(share: &At<f64>, problems: &mut Vec<Problem>) -> Mode {
    for thousandths in 1..1000u16 {
        if (share.value * 1000.0 - f64::from(thousandths)).abs() <= 0.5 {
            return Mode::Canary(thousandths);
        }
    }
    problems.push(
        Problem::error(code::CANARY_SHARE, format!("a canary cannot steer a share of {}", share.value))
            .at(&share.span, "over 0 and under 1, in steps of 0.001")
            .help("0.30 steers 30 of 100 connections. For none write mode = \"observe\", for all mode = \"enforce\"."),
    );
    Mode::Observe
}

/// The steered ports.
pub(super) fn ports(raw: Option<&At<Many<i64>>>, problems: &mut Vec<Problem>) -> Vec<u16> {
    let Some(raw) = raw else { return vec![25] };
    let mut seen = BTreeMap::new();
    let mut ports = vec![];
    for item in &raw.value.items {
        let Some(port) = u16::try_from(item.value).ok().filter(|port| *port != 0) else {
            problems.push(
                Problem::error(code::PORT_INVALID, format!("there is no port {}", item.value))
                    .at(&item.span, "1 to 65535")
                    .help("Mail between hosts leaves by port 25."),
            );
            continue;
        };
        if let Some(first) = seen.insert(port, item.span.clone()) {
            problems.push(
                Problem::error(code::PORT_TWICE, format!("port {port} is listed twice"))
                    .at(&item.span, "again here")
                    .at(&first, "first here")
                    .help("Remove one of them."),
            );
            continue;
        }
        if !MAIL_PORTS.contains(&port) {
            problems.push(
                Problem::warning(code::PORT_NOT_MAIL, format!("port {port} is no port by which mail usually leaves"))
                    .at(&item.span, "")
                    .help("Every connection to a steered port is steered or held, whatever program makes it. Mail leaves by 25, to a smarthost by 465 or 587."),
            );
        }
        ports.push(port);
    }
    if raw.value.is_empty() {
        problems.push(
            Problem::error(code::PORTS_EMPTY, "no port is steered")
                .at(&raw.span, "")
                .help("Leave the key out for port 25. To steer nothing, write mode = \"observe\"."),
        );
    }
    ports
}

/// Destinations that are never steered.
pub(super) fn exclude(raw: Option<&At<Many<String>>>, problems: &mut Vec<Problem>) -> Vec<IpNet> {
    let defaults: Vec<IpNet> = DEFAULT_EXCLUDE.iter().filter_map(|net| net.parse().ok()).collect();
    let Some(raw) = raw else { return defaults };
    let nets: Vec<IpNet> = raw.value.items.iter().filter_map(|item| network(item, problems)).collect();
    let covered = IpNet::aggregate(&nets);
    let open: Vec<String> = defaults
        .iter()
        .filter(|private| !covered.iter().any(|net| net.contains(*private)))
        .map(ToString::to_string)
        .collect();
    if !open.is_empty() {
        problems.push(
            Problem::warning(code::EXCLUDE_WITHOUT_PRIVATE, "connections to private networks are steered too")
                .at(&raw.span, format!("this list replaces the default, and leaves out {}", open.join(", ")))
                .help("A relay in a private network then sees a pool address and may not know it. Add the networks to the list unless you mean it."),
        );
    }
    covered
}

/// Reports an `exclude` that leaves nothing to be steered.
pub(super) fn exclude_leaves_something(raw: &RawConfig, exclude: &[IpNet], problems: &mut Vec<Problem>) {
    let Some(raw) = &raw.exclude else { return };
    let all = |v4: bool| exclude.iter().any(|net| net.prefix_len() == 0 && net.addr().is_ipv4() == v4);
    let problem = match (all(true), all(false)) {
        (true, true) => {
            Problem::error(code::EXCLUDE_EVERYTHING, "`exclude` covers every destination: nothing is steered")
                .help("Remove 0.0.0.0/0 and ::/0 from the list, or write mode = \"observe\".")
        }
        (true, false) => Problem::warning(
            code::EXCLUDE_FAMILY,
            "`exclude` covers all of IPv4: no IPv4 connection is steered",
        )
        .help(
            "Such connections leave by whatever address the host takes. Narrow the list unless you mean it.",
        ),
        (false, true) => Problem::warning(
            code::EXCLUDE_FAMILY,
            "`exclude` covers all of IPv6: no IPv6 connection is steered",
        )
        .help(
            "Such connections leave by whatever address the host takes. Narrow the list unless you mean it.",
        ),
        (false, false) => return,
    };
    problems.push(problem.at(&raw.span, ""));
}

/// Where metrics are served.
pub(super) fn metrics(raw: &RawConfig, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
    let default = SocketAddr::from(([127, 0, 0, 1], 9925));
    let Some(listen) = raw.metrics.as_ref().and_then(|metrics| metrics.value.listen.as_ref()) else {
        return Some(default);
    };
    if listen.value == "off" {
        return None;
    }
    match listen.value.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 || address.ip().is_loopback() => {
            if address.port() == 0 {
                problems.push(metrics_invalid(listen));
            }
            Some(address)
        }
        Ok(address) => {
            problems.push(
                Problem::error(code::METRICS_NOT_LOOPBACK, format!("metrics would be open to others at {address}"))
                    .at(&listen.span, "not a loopback address")
                    .help("Metrics name every stream and source, and have no password. Listen on 127.0.0.1 or [::1], and let a reverse proxy or an SSH tunnel carry them to Prometheus."),
            );
            None
        }
        Err(_) => {
            problems.push(metrics_invalid(listen));
            None
        }
    }
}

fn metrics_invalid(listen: &At<String>) -> Problem {
    Problem::error(code::METRICS_INVALID, format!("metrics cannot be served at `{}`", listen.value))
        .at(&listen.span, "address and port are needed")
        .help("Write \"127.0.0.1:9925\", \"[::1]:9925\" or \"off\".")
}

/// How much history is kept.
pub(super) fn retention(raw: &RawConfig, problems: &mut Vec<Problem>) -> Retention {
    let Some(state) = raw.state.as_ref().map(|state| &state.value) else { return Retention::default() };
    let default = Retention::default();
    let mut number = |written: Option<&At<i64>>, range: RangeInclusive<u32>, default: u32| {
        let Some(written) = written else { return default };
        match u32::try_from(written.value).ok().filter(|number| range.contains(number)) {
            Some(number) => number,
            None => {
                let (least, most) = (range.start(), range.end());
                problems.push(
                    Problem::error(
                        code::RETENTION_INVALID,
                        format!("history cannot be kept for {}", written.value),
                    )
                    .at(&written.span, format!("{least} to {most}"))
                    .help(
                        "Leave the key out for the default. The newest 1,000 are kept whatever is written.",
                    ),
                );
                default
            }
        }
    };
    Retention {
        events_days: number(state.events_days.as_ref(), DAYS, default.events_days),
        events_max: number(state.events_max.as_ref(), ROWS, default.events_max),
        history_days: number(state.history_days.as_ref(), DAYS, default.history_days),
        history_max: number(state.history_max.as_ref(), ROWS, default.history_max),
    }
}
