//! The tables of what is known of addresses, and by whom: lists, logs, feeds, names, and what may follow from it.
//!
//! Owns: their keys. Must not: judge values, as its parent.

use super::super::read::{At, Keyed, Many, Word, Words, table};
use crate::signal::dns::Check;
use crate::signal::log::Mta;

table! {
    /// What mailsteer may do because of a belief: what traffic, lists and replies say of an address. Facts (an address or link
    /// that is gone, the operator's word) are acted on at once and are not counted here.
    #[schemars(rename = "Safety")]
    pub(crate) struct RawSafety {
        /// Flips of a stream on one day. Further ones would carry the same mail from address to address; see `on_relapse`.
        #[schemars(extend("default" = 3))]
        flips_per_day: i64,
        /// What a sibling takes at most when shares move to it, as a multiple of its own. Receivers distrust an address whose
        /// volume jumps; what is over that is refused, so that the MTA tries again later.
        #[schemars(extend("default" = 1.5))]
        surge: f64,
        /// What may fall of a pool within ten minutes by what did not come back (silence, resets, ICMP), as a share of its
        /// weight. More than that is rather our own side's fault. A receiver's own refusal is never held.
        #[schemars(extend("default" = 0.3))]
        brake: f64,
        /// Connections in a row, each to another receiver, that have to fail before a source is isolated, while others do
        /// well at the same provider. Successes in between count against it. 2 is fast and sometimes wrong.
        #[schemars(extend("default" = 3))]
        failures: i64,
        /// Minutes of the first isolation where no receiver said why (silence, resets, ICMP). Each relapse doubles it, up to a day.
        #[schemars(extend("default" = 5))]
        silent_minutes: i64,
        /// Minutes of the first isolation where receivers said so (refused, greeted with 4xx or 5xx). Each relapse doubles it, up to
        /// a day.
        #[schemars(extend("default" = 30))]
        refused_minutes: i64,
    }
}

table! {
    /// The fuse: where too much of a stream's mail from a source comes back, that share is refused, and not moved to its siblings,
    /// until `mailsteer resume SOURCE`.
    #[schemars(rename = "Fuse")]
    pub(crate) struct RawFuse {
        /// Share of permanent failures (user unknown and the like) from which on it blows.
        #[schemars(extend("default" = 0.05))]
        bounces: f64,
        /// Share of replies that refuse the address itself.
        #[schemars(extend("default" = 0.1))]
        blocks: f64,
        /// Share of complaints; they come by `mailsteer report-outcome --complaint`.
        #[schemars(extend("default" = 0.003))]
        complaints: f64,
        /// Attempts below which nothing is done: a few say nothing. As many failures as would blow it are said.
        #[schemars(extend("default" = 200))]
        attempts: i64,
        /// How far back is looked, in hours.
        #[schemars(extend("default" = 24))]
        window_hours: i64,
    }
}

table! {
    /// DNS lists: which, through whom, how often. What their codes mean stands in a table of its own: a file `lists.toml` beside
    /// this one takes the place of the table that comes with mailsteer.
    #[schemars(rename = "Lists")]
    pub(crate) struct RawLists {
        /// The resolver that is asked, `"ADDRESS"` or `"ADDRESS:PORT"`. It has to look up names itself: lists do not answer public
        /// resolvers, nor those that forward to them.
        #[schemars(required)]
        resolver: String,
        /// The lists to ask, by their names in the table; without it, those that the table marks as default.
        names: Many<String>,
        /// Minutes from one round of a list to the next. A listing is found within this and 35 s.
        #[schemars(extend("default" = 10))]
        interval_minutes: i64,
        /// Queries a minute at most; where that is too few, rounds take longer.
        #[schemars(extend("default" = 600))]
        queries_per_minute: i64,
        /// By list, the file that holds the subscriber's key (Spamhaus DQS).
        keys: Keyed<At<String>>,
    }
}

table! {
    /// The preflight: a source that was never seen to work is tried at port 25. Where others of its pool have worked, it waits
    /// until it has too, for ten minutes at most; where none has, it serves meanwhile. One whose port 25 a hoster or a
    /// firewall blocks serves nothing until it is open, or until you say `resume`.
    #[schemars(rename = "Preflight")]
    pub(crate) struct RawPreflight {
        /// Mail servers that may be connected to at port 25, by address or name; two at least, of each family that sources
        /// have. They get a connection, and `QUIT`, for each new source. Hosts that answer at 587, 465 or 443 too are best:
        /// these tell a block of port 25 from a receiver that is down.
        #[schemars(required)]
        receivers: Many<String>,
    }
}

table! {
    /// DNS compliance: PTR of each source's public address, the PTR's own address, EHLO of its pool, SPF of the domains that
    /// send from it; DKIM keys, DMARC and alignment of each `[domain.NAME]`. `mailsteer doctor` runs the same checks at once.
    #[schemars(rename = "Dns")]
    pub(crate) struct RawDns {
        /// The resolver that is asked, `"ADDRESS"` or `"ADDRESS:PORT"`; best one on this host, and one that validates DNSSEC.
        /// Without it, that of `[lists]`.
        resolver: String,
        /// Minutes from one run to the next. What changed is looked at again five minutes later before it counts.
        #[schemars(extend("default" = 60))]
        interval_minutes: i64,
        /// Checks without which a source does not serve: `"ptr"`, `"forward"`, `"ehlo"`, `"spf"`. Where no source of
        /// a pool would be left, it is said and none is barred. Checks of domains cannot stand here: no source is
        /// better than another by them.
        #[schemars(extend("default" = []))]
        require: Many<Word<Check>>,
    }
}

table! {
    /// A domain that mail is sent from.
    #[schemars(rename = "Domain")]
    pub(crate) struct RawDomain {
        /// The pools that its mail leaves from, whose sources its SPF record has to let; without it, every pool.
        pools: Many<String>,
        /// The domain of its envelopes (MAIL FROM, Return-Path), whose SPF record counts, where it is another one.
        envelope: String,
        /// Selectors of the DKIM keys that sign its mail: `"s1"`, or with the domain where that is another one (`d=`):
        /// `"s1._domainkey.esp.example"`.
        dkim: Many<String>,
    }
}

table! {
    /// Who is told of events: a URL or a program. docs/hooks.md says what they get.
    #[schemars(rename = "Hook")]
    pub(crate) struct RawHook {
        /// Kinds of events, as `mailsteer events --json` names them. Without it: those that tell of trouble.
        events: Many<String>,
        /// Where an event is posted to, as JSON. Either this or `command`.
        url: String,
        /// A program by its absolute path, and its arguments: it gets an event as JSON on its standard input. No shell is
        /// between. It runs as the agent's user, without the agent's capabilities.
        command: Many<String>,
        /// The header that bears the secret, to a `url`.
        #[schemars(extend("default" = "Authorization"))]
        secret_header: String,
        /// The file that holds all that the header is to say (`Bearer ...`), or the name of a systemd credential. Read anew
        /// each time, never shown.
        secret_file: String,
        /// Certificates to trust in place of the host's own, as PEM: for an authority of your own.
        ca_file: String,
        /// How long a delivery may take; a program that takes longer is killed.
        #[schemars(extend("default" = 10))]
        timeout_seconds: i64,
        /// Of one kind about one subject, at most one event is told in as many minutes; 0 tells all. The next one says how many
        /// were left out.
        #[schemars(extend("default" = 10))]
        repeat_minutes: i64,
    }
}

table! {
    /// Providers by the names of their mail servers. Which names are whose stands in a table of its own: a file `providers.toml`
    /// beside this one takes the place of the table that comes with mailsteer. A name out of an MTA's log, or out of the MX record of a
    /// domain, is looked up, and the addresses that it leads to are its provider's; all others are `other`.
    #[schemars(rename = "Providers")]
    pub(crate) struct RawProviders {
        /// The resolver that is asked, `"ADDRESS"` or `"ADDRESS:PORT"`: best the one that this host's MTA asks, so that both find
        /// the same addresses.
        #[schemars(required)]
        resolver: String,
        /// Groups of the table that are providers here; without it, those that the table marks as default. Each takes a lane of every
        /// stream.
        names: Many<String>,
        /// Domains that much mail goes to: their mail servers are known before the first message. The groups' own are looked up
        /// anyway.
        domains: Many<String>,
        /// Minutes from one look at a domain or mail server to the next.
        #[schemars(extend("default" = 60))]
        interval_minutes: i64,
        /// Queries a minute at most.
        #[schemars(extend("default" = 120))]
        queries_per_minute: i64,
    }
}

table! {
    /// Where the country of a receiver is looked up.
    #[schemars(rename = "Countries")]
    pub(crate) struct RawCountries {
        /// A database of networks and countries in MaxMind's format (GeoLite2-Country.mmdb, DB-IP Lite), read at the start and at
        /// each reload.
        #[schemars(required)]
        database: String,
    }
}

table! {
    /// What is published of the pools' addresses, and where. docs/feeds.md says what follows from it.
    #[schemars(rename = "Feed")]
    pub(crate) struct RawFeed {
        /// `"snds"`: Microsoft's Smart Network Data Services; `"json"`: a number out of any JSON that is served by HTTP.
        #[schemars(required)]
        kind: Word<FeedWord>,
        /// Where it is; `{key}` and, for `"json"`, `{address}` stand where those belong. For `"snds"` Microsoft's by default.
        url: String,
        /// Where SNDS says which addresses it blocks; Microsoft's by default, and nowhere where another `url` is written.
        status_url: String,
        /// The file that holds the key, or the name of a systemd credential. Read anew each time, never shown.
        key_file: String,
        /// The header that bears the key, where it does not stand in the URL.
        key_header: String,
        /// Certificates to trust in place of the host's own, as PEM.
        ca_file: String,
        /// The provider whose opinion it is: only a return there is held. Without it, every return.
        provider: String,
        /// Minutes from one look to the next.
        #[schemars(extend("default" = 360))]
        interval_minutes: i64,
        /// Days for which a bad word counts, from the day that it is about.
        #[schemars(extend("default" = 3))]
        max_age_days: i64,
        /// How long an answer may take.
        #[schemars(extend("default" = 30))]
        timeout_seconds: i64,
        /// Where the number stands in the JSON, by RFC 6901.
        pointer: String,
        /// From which number on an address is good; above `bad`: more is better, else less is.
        good: f64,
        /// From which number on it is bad.
        bad: f64,
    }
}

/// What a feed is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FeedWord {
    /// Microsoft's tables.
    Snds,
    /// Any JSON.
    Json,
}

table! {
    /// A log of an MTA: what receivers said is read from it and counted for the source that the connection left from. One of
    /// `file`, `journal` and `docker` says where it is.
    #[schemars(rename = "Log")]
    pub(crate) struct RawLog {
        /// Whose log it is.
        #[schemars(extend("default" = "postfix"))]
        mta: Word<Mta>,
        /// A file, such as `"/var/log/mail.log"`. It may be rotated by renaming, or by copying and emptying.
        file: String,
        /// The journal of a unit, such as `"postfix@-.service"`, or a field of the journal and its value, such as
        /// `"SYSLOG_IDENTIFIER=exim4"`.
        journal: String,
        /// A container's output: its name, where Docker writes to the journal (`journald`), or the path of its `json-file`. Process
        /// numbers in it are the container's own, so that they tell nothing here.
        docker: String,
    }
}

impl Words for FeedWord {
    const WORDS: &'static [(&'static str, Self)] = &[("snds", Self::Snds), ("json", Self::Json)];
}
