//! The text of the config.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};

use super::sort::{Bridge, Sorted, Way, prefixes, sorted};
use super::{Facts, MatchBy, Mta};
use crate::model::{Address, Family};

/// Writes the config.
#[must_use]
pub fn write(facts: &Facts) -> String {
    let found = sorted(facts);
    let mut out = Text::default();
    head(&mut out);
    host(&mut out, &found);
    uplinks(&mut out, &found);
    let whole = pool(&mut out, facts, &found);
    streams(&mut out, facts, &found, whole);
    steps(&mut out, whole);
    out.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, text: impl Display) {
        let _ = writeln!(self.0, "{text}");
    }

    /// A comment, wrapped as this repository's are.
    fn say(&mut self, text: &str) {
        let mut line = "#".to_owned();
        // Names of interfaces may hold what TOML allows in no comment.
        let text = text.replace(char::is_control, "\u{fffd}");
        for word in text.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > 110 {
                self.line(&line);
                "#".clone_into(&mut line);
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(line);
    }

    fn gap(&mut self) {
        self.0.push('\n');
    }
}

/// A text as TOML wants it; what JSON escapes, TOML reads alike, and TOML wants one character more escaped.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

fn head(out: &mut Text) {
    out.say(
        "mailsteer: written by `mailsteer init` from what it found on this host. Every key: docs/config.md",
    );
    out.gap();
    out.say("Counts connections and changes none. The last lines of this file say how to go on.");
    out.line("mode = \"observe\"");
}

fn host(out: &mut Text, found: &Sorted<'_>) {
    out.gap();
    out.line("[host]");
    if found.ways.iter().any(|way| !way.public.is_empty() || !way.private.is_empty()) {
        out.say("The addresses below are on this host already, and whatever put them there keeps them. \"plumb\": mailsteer puts the pools' addresses on the host itself, and back when they vanish.");
        out.line("addresses = \"adopt\"");
    } else {
        out.say("mailsteer puts the pools' addresses on the host. \"adopt\": something else does.");
        out.line("addresses = \"plumb\"");
    }
}

/// Uplinks are written down only where there is a choice.
fn uplinks(out: &mut Text, found: &Sorted<'_>) {
    out.gap();
    match found.ways.as_slice() {
        [] => out.say("No default route was found, so mail has no way out yet. With one, its interface is the uplink, and nothing has to be written here."),
        [way] => out.say(&format!(
            "Mail leaves by {}, the interface of the default route: an uplink that is found needs no entry.",
            way.link.name
        )),
        several => {
            out.say("Several interfaces have a default route. Each source leaves by the uplink whose prefix holds it.");
            let with_sources: Vec<&Way<'_>> = several.iter().filter(|way| !way.public.is_empty()).collect();
            let mut names = Names::default();
            for (number, way) in with_sources.iter().enumerate() {
                let others: Vec<&Way<'_>> =
                    with_sources.iter().enumerate().filter(|(other, _)| *other != number).map(|(_, way)| *way).collect();
                uplink(out, &mut names, way, &others);
            }
            for way in several.iter().filter(|way| way.public.is_empty()) {
                out.gap();
                out.say(&format!("{} has a default route and no public address: no source leaves by it.", way.link.name));
            }
        }
    }
}

fn uplink(out: &mut Text, names: &mut Names, way: &Way<'_>, others: &[&Way<'_>]) {
    if !names.0.is_empty() {
        out.gap();
    }
    out.line(format!("[uplink.{}]", names.after(&way.link.name)));
    out.line(format!("interface = {}", quoted(&way.link.name)));
    let gateways = way.gateways();
    if !gateways.is_empty() {
        out.line(format!("gateway = {}", list(&gateways)));
    }
    out.line(format!("prefix = {}", list(&prefixes(way, others))));
}

/// Names that are given already: interfaces that differ only in what no name may hold must not get the same.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    /// A name after an interface or an MTA.
    fn after(&mut self, text: &str) -> String {
        let plain = name(text);
        let free = |name: &String| !self.0.contains(name);
        let numbered = (2_u32..).map(|n| format!("{plain}-{n}"));
        let found = std::iter::once(plain.clone()).chain(numbered).find(free).unwrap_or_default();
        self.0.insert(found.clone());
        found
    }
}

/// The name of an uplink or stream after an interface: what is not allowed in one becomes `-`.
fn name(interface: &str) -> String {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let text: String =
        interface.to_lowercase().chars().map(|c| if fits(c) { c } else { '-' }).take(24).collect();
    if text.starts_with(|c: char| c.is_ascii_alphanumeric()) { text } else { format!("x{text}") }
}

/// The pool; whether there is one that is not a comment.
fn pool(out: &mut Text, facts: &Facts, found: &Sorted<'_>) -> bool {
    let public: Vec<&Address> = found.ways.iter().flat_map(|way| &way.public).copied().collect();
    let private: Vec<&Address> = found.ways.iter().flat_map(|way| &way.private).copied().collect();
    out.gap();
    match (public.is_empty(), private.is_empty()) {
        (false, _) => public_pool(out, facts, &public),
        (true, false) => translated_pool(out, facts, &private),
        (true, true) => {
            out.say("No public address was found on an interface by which mail leaves. Write those that your provider routes to this host:");
            for line in [
                "[pool.main]",
                "addresses = [\"203.0.113.10\", \"203.0.113.11\"]",
                "ehlo = \"mail.example.com\"",
            ] {
                out.line(format!("#{line}"));
            }
        }
    }
    left_out(out, found);
    !public.is_empty()
}

fn public_pool(out: &mut Text, facts: &Facts, public: &[&Address]) {
    out.say("Every public address by which mail can leave. Make several pools where streams shall not share a reputation. The first is often the host's own, by which other programs leave too: take it out if it shall send no mail.");
    out.line("[pool.main]");
    out.line("addresses = [");
    for one in public {
        out.line(format!("    {},", quoted(&one.address.to_string())));
    }
    out.line("]");
    if !public.iter().any(|one| Family::of(one.address) == Family::V6) {
        out.say("No IPv6 source: IPv6 connections are refused once the mode steers, and the MTA falls back to IPv4.");
    }
    ehlo(out, facts);
}

fn ehlo(out: &mut Text, facts: &Facts) {
    match facts.name.as_deref().filter(|name| crate::config::is_full_host_name(name)) {
        Some(name) => {
            out.say("This host's name. Let the MTA's EHLO, the PTR of each address and the name's A agree.");
            out.line(format!("ehlo = {}", quoted(name)));
        }
        None => {
            out.say("No full host name was found. The name that the MTA says; the PTR of each address should be it.");
            out.line("#ehlo = \"mail.example.com\"");
        }
    }
}

/// What a NAT makes of an address is known to the provider only.
fn translated_pool(out: &mut Text, facts: &Facts, private: &[&Address]) {
    out.say("TO FILL IN: only private addresses were found, so something outside of this host translates them. Write the public address of each (your provider's console shows it), and remove the `#` from here to the end of the streams:");
    out.line("#[pool.main]");
    out.line("#addresses = [");
    for one in private {
        let local = quoted(&one.address.to_string());
        out.line(format!("#    {{ local = {local}, public = \"FILL IN\" }},"));
    }
    out.line("#]");
    let mut name = Text::default();
    ehlo(&mut name, facts);
    for line in name.0.lines() {
        out.line(if line.starts_with('#') { line.to_owned() } else { format!("#{line}") });
    }
}

fn left_out(out: &mut Text, found: &Sorted<'_>) {
    let parts = [
        (
            &found.passing,
            "because it comes and goes by router advertisement, so that no PTR can be kept for it",
        ),
        (
            &found.elsewhere,
            "because it is on no uplink: add it to the `prefix` of the uplink by which it leaves, and to the pool",
        ),
        (&found.mute, "because there is no default route of its family that an uplink can have"),
    ];
    for (addresses, why) in parts.into_iter().filter(|(addresses, _)| !addresses.is_empty()) {
        for one in addresses {
            out.say(&format!("{} is left out, {why}.", one.address));
        }
    }
}

/// Streams of what was found; as comments where there is no pool yet.
fn streams(out: &mut Text, facts: &Facts, found: &Sorted<'_>, whole: bool) {
    let mut text = Text::default();
    if !facts.mtas.is_empty() || !found.bridges.is_empty() {
        text.say("Streams match in this order, and the first that matches wins.");
    }
    let mut names = Names::default();
    for mta in &facts.mtas {
        separate(&mut text, &names);
        stream(&mut text, &mut names, mta);
    }
    for bridge in &found.bridges {
        separate(&mut text, &names);
        containers(&mut text, &mut names, bridge);
    }
    for link in &found.repeated {
        text.gap();
        text.say(&format!("{} is left out: its networks are those of a bridge above.", link.name));
    }
    if names.0.is_empty() {
        text.say("No MTA and no container bridge was found. Whose mail shall be steered; `user` is whose process connects:");
        for line in ["[stream.mail]", "user = \"postfix\"", "pool = \"main\""] {
            text.line(format!("#{line}"));
        }
    }
    out.gap();
    for line in text.0.lines() {
        let plain = whole || line.is_empty() || line.starts_with('#');
        out.line(if plain { line.to_owned() } else { format!("#{line}") });
    }
}

fn separate(out: &mut Text, names: &Names) {
    if !names.0.is_empty() {
        out.gap();
    }
}

fn stream(out: &mut Text, names: &mut Names, mta: &Mta) {
    let name = names.after(&mta.name);
    match &mta.by {
        MatchBy::User(user) => {
            out.say(&format!("Found by {}. Its processes connect as user {user}.", mta.evidence));
            out.line(format!("[stream.{name}]"));
            out.line(format!("user = {}", quoted(user)));
        }
        MatchBy::Cgroup(path) => {
            out.say(&format!(
                "Found by {}. It connects as root, as others do: its cgroup tells it apart.",
                mta.evidence
            ));
            out.line(format!("[stream.{name}]"));
            out.line(format!("cgroup = {}", quoted(path)));
        }
    }
    out.line("pool = \"main\"");
}

fn containers(out: &mut Text, names: &mut Names, bridge: &Bridge<'_>) {
    out.say(&format!(
        "Containers behind {}. Remove it if none of them sends mail; their users are not known on this host.",
        bridge.link.name
    ));
    out.line(format!("[stream.{}]", names.after(&bridge.link.name)));
    out.line(format!("subnet = {}", list(&bridge.subnets)));
    out.line("pool = \"main\"");
}

fn steps(out: &mut Text, whole: bool) {
    out.gap();
    out.say("Next steps, with FILE for this file:");
    let mut steps = vec![
        ("mailsteer check FILE", "every problem at once"),
        ("mailsteer doctor --config FILE", "what this host lacks, and what collides"),
        ("systemctl enable --now mailsteer", "observes. Without systemd: mailsteer agent --config FILE"),
        ("mailsteer connections --follow", "which stream each connection matches"),
        ("mode = { canary = 0.30 }", "here, then `mailsteer reload`: steers 30 % of the connections"),
        ("mode = \"enforce\"", "here, then `mailsteer reload`: steers all"),
    ];
    if !whole {
        steps.insert(
            0,
            ("pool and streams above", "fill them in and remove the `#`: until then nothing can be steered"),
        );
    }
    for (number, (what, why)) in steps.iter().enumerate() {
        out.line(format!("# {}. {what:<32} {why}", number + 1));
    }
}
