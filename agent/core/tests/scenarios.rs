//! Golden scenarios: a config, a host, and what happens, with the events, the plan and the shares that follow.
//!
//! Each file under `scenarios/` is one story that a postmaster can read and write:
//!
//! ```text
//! A title.
//!
//! == config                 the config file
//! == step 10:00:00          what is observed or said, a line each
//! == expect                 what follows
//! == reload 10:05:00        another config file
//! == expect                 what follows
//! ```
//!
//! Lines of a step: `link NAME up|down|gone` (`ppp...` is point to point), `address IF ADDR [tentative|dad-failed|gone]`, `route DEST [via GW] IF
//! [gone]`, `suspend SOURCE [until HH:MM:SS] because WHY`, `resume SOURCE because WHY`, `bypass STREAM until HH:MM:SS
//! because WHY`, `hold because WHY`, `end hold because WHY`, `listed ADDR on LIST isolate|warn because WHY`,
//! `cleared ADDR on LIST`, `dns ADDR|DOMAIN fails CHECK because WHY`, `dns ADDR|DOMAIN passes CHECK`, `list LIST aside because WHY`, `list LIST back`, `table flushed`, `time passes`, `clock set by SPAN`, `explain uid N to ADDR`. Run with `MAILSTEER_BLESS=1` to write what
//! follows into the files, then read the difference.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]
#![expect(clippy::disallowed_methods, reason = "scenarios are files; the core itself reads none")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use mailsteer_core::config::{self, HostView};
use mailsteer_core::decide::{self, Command, Decision, Event, Observation, Who, World};
use mailsteer_core::model::{
    Address, AddressState, ChoiceMode, Family, Host, Link, Route, SlotTarget, WantedKind,
};
use mailsteer_core::plan::{Action, AddressAt, Observed, carried_out, plan};
use mailsteer_core::signal::dns::{Check, DnsEvent, Subject};
use mailsteer_core::signal::lists::{Action as Follows, ListEvent};

#[test]
fn every_scenario_follows_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let bless = std::env::var_os("MAILSTEER_BLESS").is_some();
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let played = Story::parse(&text).play();
        count += 1;
        if bless {
            std::fs::write(&path, &played).unwrap();
        } else if played != text {
            wrong.push(format!("{}:\n{}", path.display(), difference(&text, &played)));
        }
    }
    assert!(count > 5, "the scenarios were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn subject_of(text: &str) -> Subject {
    text.parse().map_or_else(|_| Subject::Domain(text.to_owned()), Subject::Source)
}

fn check_of(word: &str) -> Check {
    Check::OF_SOURCE.into_iter().chain(Check::OF_DOMAIN).find(|check| check.as_str() == word).unwrap()
}

fn difference(written: &str, played: &str) -> String {
    let lines = written.lines().zip(played.lines()).enumerate().find(|(_, (a, b))| a != b);
    lines.map_or_else(
        || format!("{} lines written, {} follow", written.lines().count(), played.lines().count()),
        |(n, (a, b))| format!("line {}: written  {a}\n          follows  {b}", n + 1),
    )
}

struct Story<'a> {
    title: &'a str,
    config: &'a str,
    steps: Vec<Step<'a>>,
}

struct Step<'a> {
    /// `step` or `reload`.
    kind: &'a str,
    time: &'a str,
    body: &'a str,
}

impl<'a> Story<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split("\n== ");
        let title = parts.next().unwrap().trim();
        let (mut config, mut steps) = ("", Vec::new());
        for part in parts {
            let (head, body) = part.split_once('\n').unwrap_or((part, ""));
            match head.split_once(' ').unwrap_or((head, "")) {
                ("config", _) => config = body,
                (kind @ ("step" | "reload"), time) => steps.push(Step { kind, time, body }),
                ("expect", _) => {}
                (other, _) => panic!("no such part: {other}"),
            }
        }
        Self { title, config, steps }
    }

    fn play(&self) -> String {
        let mut stage = Stage::new(self.config);
        let mut text = format!("{}\n\n== config\n{}\n", self.title, self.config.trim());
        for Step { kind, time, body } in &self.steps {
            let now = time_of_day(time);
            let follows = if *kind == "reload" { stage.reload(now, body) } else { stage.step(now, body) };
            write!(text, "\n== {kind} {time}\n{}\n\n== expect\n{follows}", body.trim()).unwrap();
        }
        text
    }
}

fn time_of_day(text: &str) -> Timestamp {
    format!("2026-01-05T{text}Z").parse().unwrap_or_else(|_| panic!("a time of day: {text}"))
}

struct Stage {
    world: Option<World>,
    config: String,
    host: Host,
    observed: Observed,
    shares: BTreeMap<String, String>,
    lists: Vec<ListEvent>,
    dns: Vec<DnsEvent>,
}

impl Stage {
    fn new(config: &str) -> Self {
        let lo = Link { index: 1, name: "lo".into(), up: true, loopback: true, point_to_point: false };
        let host = Host { links: vec![lo], ..Host::default() };
        let observed = Observed { unhealed: true, ..Observed::default() };
        let shares = BTreeMap::new();
        Self {
            world: None,
            config: config.to_owned(),
            host,
            observed,
            shares,
            lists: Vec::new(),
            dns: Vec::new(),
        }
    }

    fn reload(&mut self, now: Timestamp, text: &str) -> String {
        let config = Box::new(load(text, &self.host));
        let mut events = self.world.as_mut().unwrap().apply(Observation::Config(config), now);
        let mut out = String::new();
        self.settle(now, &mut events, &mut out);
        out
    }

    fn step(&mut self, now: Timestamp, lines: &str) -> String {
        let mut out = String::new();
        let mut commands = Vec::new();
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            commands.extend(self.line(&line.split_whitespace().collect::<Vec<_>>()));
        }
        let world = self.world.get_or_insert_with(|| World::new(load(&self.config, &self.host), now));
        let jump = lines.lines().find_map(|line| line.trim().strip_prefix("clock set by "));
        let jump = jump.map(|by| Observation::ClockJumped { by: by.parse().unwrap() });
        let mut events: Vec<Event> = jump.into_iter().flat_map(|jump| world.apply(jump, now)).collect();
        events.extend(world.apply(Observation::Host(self.host.clone()), now));
        let lists = std::mem::take(&mut self.lists);
        if !lists.is_empty() {
            events.extend(world.apply(Observation::Lists(lists), now));
        }
        let dns = std::mem::take(&mut self.dns);
        if !dns.is_empty() {
            events.extend(world.apply(Observation::Dns(dns), now));
        }
        let mut answers = Vec::new();
        for command in commands {
            match command {
                Said::Command(command) => match world.command(command, now) {
                    Ok(more) => events.extend(more),
                    Err(error) => answers.push(format!("answer: {error}")),
                },
                Said::Explain(who, destination) => {
                    let decision = decide::desired(world, now);
                    let explanation = decide::explain(world, &decision.desired, &who, destination);
                    answers.push(explained(&explanation));
                }
            }
        }
        self.settle(now, &mut events, &mut out);
        answers.iter().for_each(|answer| writeln!(out, "{answer}").unwrap());
        out
    }

    fn settle(&mut self, now: Timestamp, events: &mut Vec<Event>, out: &mut String) {
        let mut steps = Vec::new();
        let mut decision = Decision::default();
        for _round in 0..4 {
            self.observed.addresses = self.addresses();
            let world = self.world.as_mut().unwrap();
            events.extend(world.apply(Observation::Host(self.host.clone()), now));
            decision = decide::desired(world, now);
            let actions = plan(&decision.desired, &self.observed);
            if actions.is_empty() {
                break;
            }
            for action in actions {
                steps.push(format!("do:    {action}"));
                self.carry_out(&action);
            }
        }
        for event in events {
            writeln!(out, "event: {}", event.kind).unwrap();
        }
        steps.iter().for_each(|step| writeln!(out, "{step}").unwrap());
        self.tell_shares(&decision, out);
        if let Some(deadline) = decision.next_deadline {
            writeln!(out, "look again at {}", deadline.strftime("%H:%M:%S")).unwrap();
        }
    }

    /// Shares that changed since the last step.
    fn tell_shares(&mut self, decision: &Decision, out: &mut String) {
        let mut shares = BTreeMap::new();
        for lane in &decision.desired.lanes {
            for family in Family::BOTH {
                let here = decision.desired.choices.iter();
                let here = here.filter(|choice| choice.lane == lane.id && choice.family == family);
                let mut parts: Vec<String> = here
                    .filter_map(|choice| match &choice.mode {
                        ChoiceMode::Chosen { slots, of } => Some(format!("{} {slots}/{of}", choice.source)),
                        ChoiceMode::Discarded(_) => None,
                    })
                    .collect();
                let slots = &lane.slots[&family].0;
                let mut others: Vec<String> = slots
                    .iter()
                    .filter(|slot| !matches!(slot, SlotTarget::Source(..)))
                    .map(ToString::to_string)
                    .collect();
                let count = others.len();
                others.dedup();
                match (others.as_slice(), count < slots.len()) {
                    ([], _) => {}
                    (all, false) => parts = all.to_vec(),
                    (some, true) => parts.push(format!("{} {count}/{}", some.join(" or "), slots.len())),
                }
                let steering = format!("{:?}", lane.steering).to_lowercase();
                shares.insert(format!("{} {family} ({steering})", lane.stream), parts.join(", "));
            }
        }
        for (lane, share) in shares.iter().filter(|(lane, share)| self.shares.get(*lane) != Some(share)) {
            writeln!(out, "share: {lane}: {share}").unwrap();
        }
        self.shares = shares;
    }

    fn addresses(&self) -> Vec<AddressAt> {
        let entry = |entry: &Address| AddressAt {
            address: entry.address,
            interface: self.host.links.iter().find(|link| link.index == entry.ifindex).unwrap().name.clone(),
            kind: if entry.ifindex == 1 { WantedKind::Tag } else { WantedKind::Source },
            ours: entry.ours,
        };
        self.host.addresses.iter().map(entry).collect()
    }

    fn carry_out(&mut self, action: &Action) {
        if let Action::AddAddress(entry) = action {
            let ifindex = self.index(&entry.interface);
            let state = AddressState::Ready;
            self.host.addresses.push(Address {
                ifindex,
                address: entry.address,
                prefix_len: 32,
                state,
                ours: true,
            });
        }
        if let Action::RemoveAddress(entry) = action {
            self.host.addresses.retain(|there| there.address != entry.address);
        }
        self.observed = carried_out(std::mem::take(&mut self.observed), action);
    }

    fn index(&self, name: &str) -> u32 {
        self.host
            .links
            .iter()
            .find(|link| link.name == name)
            .unwrap_or_else(|| panic!("no link {name}"))
            .index
    }

    fn line(&mut self, words: &[&str]) -> Option<Said> {
        match *words {
            ["link", name, how] => self.link(name, how),
            ["address", interface, address, ref how @ ..] => self.address(interface, address, how),
            ["route", destination, "via", gateway, interface] => {
                self.route(destination, Some(gateway), interface);
            }
            ["route", destination, interface] => self.route(destination, None, interface),
            ["unroute", destination, interface] => {
                let (destination, ifindex) = (destination.parse().unwrap(), self.index(interface));
                self.host.routes.retain(|route| route.destination != destination || route.ifindex != ifindex);
            }
            ["table", "flushed"] => {
                let addresses = std::mem::take(&mut self.observed.addresses);
                self.observed.table = None;
                self.observed.unhealed = true;
                self.observed.slots.clear();
                self.observed.translations.clear();
                self.observed.addresses = addresses;
            }
            ["listed", address, "on", list, action, "because", ref why @ ..] => {
                let action = if action == "isolate" { Follows::Isolate } else { Follows::Warn };
                let (list, meaning) = (list.to_owned(), why.join(" "));
                let address = address.parse().unwrap();
                self.lists.push(ListEvent::Listed { list, address, meaning, action, reason: None });
            }
            ["cleared", address, "on", list] => {
                let (list, address) = (list.to_owned(), address.parse().unwrap());
                self.lists.push(ListEvent::Cleared { list, address });
            }
            ["list", list, "aside", "because", ref why @ ..] => {
                self.lists.push(ListEvent::SetAside { list: list.to_owned(), why: why.join(" ") });
            }
            ["list", list, "back"] => self.lists.push(ListEvent::Back { list: list.to_owned() }),
            ["dns", subject, "fails", check, "because", ref why @ ..] => {
                let (subject, check) = (subject_of(subject), check_of(check));
                self.dns.push(DnsEvent::Lost { subject, check, what: why.join(" ") });
            }
            ["dns", subject, "passes", check] => {
                self.dns.push(DnsEvent::Restored { subject: subject_of(subject), check: check_of(check) });
            }
            ["time", "passes"] | ["clock", "set", "by", _] => {}
            ["suspend", source, "until", until, "because", ref why @ ..] => {
                let until = Some(time_of_day(until));
                let command = Command::Suspend { source: source.into(), until, reason: why.join(" ") };
                return Some(Said::Command(command));
            }
            ["suspend", source, "because", ref why @ ..] => {
                let command = Command::Suspend { source: source.into(), until: None, reason: why.join(" ") };
                return Some(Said::Command(command));
            }
            ["resume", source, "because", ref why @ ..] => {
                return Some(Said::Command(Command::Resume { source: source.into(), reason: why.join(" ") }));
            }
            ["bypass", stream, "until", until, "because", ref why @ ..] => {
                let (until, reason) = (time_of_day(until), why.join(" "));
                return Some(Said::Command(Command::Bypass { stream: stream.into(), until, reason }));
            }
            ["hold", "because", ref why @ ..] => {
                return Some(Said::Command(Command::Hold { until: None, reason: why.join(" ") }));
            }
            ["end", "hold", "because", ref why @ ..] => {
                return Some(Said::Command(Command::EndHold { reason: why.join(" ") }));
            }
            ["explain", "uid", uid, "to", destination] => {
                let who = Who { uid: Some(uid.parse().unwrap()), ..Who::default() };
                return Some(Said::Explain(who, destination.parse().unwrap()));
            }
            _ => panic!("no such line: {}", words.join(" ")),
        }
        None
    }

    fn link(&mut self, name: &str, how: &str) {
        let known = self.host.links.iter().position(|link| link.name == name);
        match (known, how) {
            (Some(at), "gone") => {
                let index = self.host.links.remove(at).index;
                self.host.addresses.retain(|entry| entry.ifindex != index);
                self.host.routes.retain(|route| route.ifindex != index);
            }
            (Some(at), _) => self.host.links[at].up = how == "up",
            (None, _) => {
                let index = self.host.links.iter().map(|link| link.index).max().unwrap() + 1;
                let point_to_point = name.starts_with("ppp");
                let (name, up) = (name.to_owned(), how == "up");
                self.host.links.push(Link { index, name, up, loopback: false, point_to_point });
            }
        }
    }

    fn address(&mut self, interface: &str, text: &str, how: &[&str]) {
        let address = text.parse().unwrap();
        let ours = self.host.addresses.iter().any(|entry| entry.address == address && entry.ours);
        self.host.addresses.retain(|entry| entry.address != address);
        let state = match how {
            [] => AddressState::Ready,
            ["tentative"] => AddressState::Tentative,
            ["dad-failed"] => AddressState::DadFailed,
            ["gone"] => return,
            other => panic!("no such state: {other:?}"),
        };
        let ifindex = self.index(interface);
        self.host.addresses.push(Address { ifindex, address, prefix_len: 24, state, ours });
    }

    fn route(&mut self, destination: &str, gateway: Option<&str>, interface: &str) {
        let (destination, ifindex) = (destination.parse().unwrap(), self.index(interface));
        let gateway = gateway.map(|gateway| gateway.parse().unwrap());
        self.host.routes.push(Route { destination, gateway, ifindex, metric: 0 });
    }
}

enum Said {
    Command(Command),
    Explain(Who, std::net::IpAddr),
}

fn explained(explanation: &decide::Explanation) -> String {
    let mut text = String::new();
    for stream in &explanation.streams {
        let sign = if stream.matched { "matches" } else { "no match" };
        writeln!(text, "       stream {}: {sign}: {}", stream.stream, stream.why).unwrap();
    }
    for source in &explanation.sources {
        let share = f64::from(source.share) / 10.0;
        let why_not = source.why_not.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        writeln!(text, "       source {}: {share} %{why_not}", source.source).unwrap();
    }
    format!("answer: {}\n{}", explanation.result, text.trim_end())
}

fn load(text: &str, host: &Host) -> config::Config {
    let users = BTreeMap::from([("postfix".to_owned(), 101), ("exim".to_owned(), 102)]);
    let view = HostView { users, host: Some(host.clone()), ..HostView::default() };
    let checked = config::load("scenario", text, &view);
    let errors: Vec<String> = checked.problems.iter().map(ToString::to_string).collect();
    checked.config.unwrap_or_else(|| panic!("the scenario's config: {errors:?}\n{text}"))
}
