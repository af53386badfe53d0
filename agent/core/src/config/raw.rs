//! The file as it is written: every table, every key, with the words that the schema and the reference show.
//!
//! Owns: the list of keys. Must not: judge values; `check` does. Adding a key here makes it known to the reader,
//! to `config/schema.json` and to `docs/config.md`.

mod reputation;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use toml::Spanned;
use toml::de::DeValue;

pub(crate) use self::reputation::{
    FeedWord, RawCountries, RawDns, RawDomain, RawFeed, RawFuse, RawHook, RawLists, RawLog, RawPreflight,
    RawProviders, RawSafety,
};
use super::problem::Problem;
use super::read::{At, FromToml, Keyed, Many, Word, Words, table, wrong_type};
use super::settings::{Balance, Ebpf, Ipv6, OnExhausted, OnFlip, OnRelapse, OwnTable, Plumbing};
use crate::signal::dns::Check;
use crate::signal::log::Mta;

table! {
    /// The config of mailsteer. Without any config the agent observes: it counts, and changes nothing.
    pub(crate) struct RawConfig {
        /// Whether mail is steered: `"observe"` counts and changes nothing, `"enforce"` steers every stream, and
        /// `{ canary = 0.30 }` steers that share of each stream's connections and leaves the rest alone.
        #[schemars(extend("default" = "observe"))]
        mode: RawMode,
        /// Steered destination ports. 465 and 587 can be added where mail leaves for a smarthost by them.
        #[schemars(extend("default" = [25]))]
        ports: Many<i64>,
        /// Destination networks that are never steered. A list written here replaces the default. Never steered,
        /// whatever stands here: the host's own addresses, loopback, link-local, multicast and broadcast, and
        /// networks that are routed through interfaces which are no uplinks (such as container bridges).
        #[schemars(extend("default" = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]))]
        exclude: Many<String>,
        /// How mailsteer deals with the addresses of this host.
        host: RawHost,
        /// How mailsteer keeps its nftables table.
        nft: RawNft,
        /// The eBPF guard, the second lock.
        guard: RawGuard,
        /// Where Prometheus finds the metrics.
        metrics: RawMetrics,
        /// Who may ask and command the agent through its control socket.
        control: RawControl,
        /// How much history the state database keeps.
        state: RawState,
        /// What mailsteer may do because of a belief: what traffic, lists and replies say of an address.
        safety: RawSafety,
        /// When a stream's mail from a source is stopped, because too much of it comes back.
        fuse: RawFuse,
        /// DNS lists (DNSBLs) that every public address is looked up in. Without this table nobody looks.
        lists: RawLists,
        /// The preflight: with it, a source that is new is tried at port 25 before mail depends on it.
        preflight: RawPreflight,
        /// What the DNS says of every source: PTR, SPF, and of the domains that send. Without this table nobody looks.
        dns: RawDns,
        /// Domains that mail is sent from, by name: `[domain."example.com"]`. Only `[dns]` and `mailsteer doctor` look at them.
        domain: Keyed<RawDomain>,
        /// Hooks by name: who is told of events, on hosts without an Alertmanager.
        hook: Keyed<RawHook>,
        /// Providers by the names of their mail servers: whose each receiver is is found by looking names up. Without this table
        /// only `networks` tell.
        providers: RawProviders,
        /// Where the country of a receiver is looked up, for streams with `destination_country`.
        countries: RawCountries,
        /// Feeds by name: what receivers and others publish of an address, hours to days late. A bad word never moves traffic; it
        /// keeps an isolated source from coming back.
        feed: Keyed<RawFeed>,
        /// Logs of MTAs that are followed, by names of your own: what receivers said of messages. Without one nobody reads any.
        log: Keyed<RawLog>,
        /// Uplinks by name: interface and gateway by which mail leaves. None: found by the default routes.
        uplink: Keyed<RawUplink>,
        /// Providers by name: who receives. What is believed of a source at one provider leaves the others alone; receivers
        /// of none of these are `other`.
        provider: Keyed<RawProvider>,
        /// Pools by name: the sources that a stream may leave from.
        pool: Keyed<RawPool>,
        /// Streams by name: whose mail leaves by which pool. They match in the order in which they stand in the
        /// file, and the first that matches wins.
        stream: Keyed<RawStream>,
    }
}

table! {
    /// How mailsteer deals with the addresses of this host.
    #[schemars(rename = "Host")]
    pub(crate) struct RawHost {
        /// `"plumb"` puts the pools' addresses on the host and takes away only what it put there; `"adopt"` never
        /// adds or removes one: they must be on the host already.
        #[schemars(extend("default" = "plumb"))]
        addresses: Word<Plumbing>,
    }
}

table! {
    /// How mailsteer keeps its nftables table.
    #[schemars(rename = "Nft")]
    pub(crate) struct RawNft {
        /// `"auto"` owns the table where the kernel can (6.9 and later), so that another program's
        /// `nft flush ruleset` skips it; `"never"` leaves it open, so that the nft program can edit it too.
        #[schemars(extend("default" = "auto"))]
        own_table: Word<OwnTable>,
    }
}

table! {
    /// The eBPF guard, the second lock.
    #[schemars(rename = "Guard")]
    pub(crate) struct RawGuard {
        /// `"auto"` has the guard where the kernel lets it, and goes on with one lock, said loudly, where the kernel
        /// refuses eBPF (unprivileged containers); `"required"` does not start without it; `"off"` never asks for it.
        /// Takes effect at the agent's next start.
        #[schemars(extend("default" = "auto"))]
        ebpf: Word<Ebpf>,
    }
}

table! {
    /// Where Prometheus finds the metrics.
    #[schemars(rename = "Metrics")]
    pub(crate) struct RawMetrics {
        /// Loopback address and port, or `"off"`. Metrics name every stream and source and have no password, so
        /// that only a loopback address is accepted.
        #[schemars(extend("default" = "127.0.0.1:9925"))]
        listen: String,
    }
}

table! {
    /// Who may ask and command the agent through its control socket. Root and the agent's own user may always.
    #[schemars(rename = "Control")]
    pub(crate) struct RawControl {
        /// Groups whose members may change something: suspend, resume, bypass, reload, teardown. The default counts
        /// only where the group exists.
        #[schemars(extend("default" = ["mailsteer-operators"]))]
        operators: Many<String>,
        /// Groups whose members may look, besides the operators. None written: whoever may open the socket.
        readers: Many<String>,
        /// Whether gRPC clients may ask which calls there are. Takes effect at the agent's next start.
        #[schemars(extend("default" = true))]
        reflection: bool,
    }
}

table! {
    /// How much history the state database keeps. Counters, and what still holds, stay whatever their age; so do the
    /// newest 1,000 of each kind, for a clock that jumps ahead must not empty them.
    #[schemars(rename = "State")]
    pub(crate) struct RawState {
        /// Days that events are kept. A complaint or a listing is rarely looked into after a quarter.
        #[schemars(extend("default" = 90))]
        events_days: i64,
        /// Events that are kept at most, some 300 bytes each on the disk: 30 MB.
        #[schemars(extend("default" = 100_000))]
        events_max: i64,
        /// Days that ended suspensions and bypasses are kept, and what each address did on a day (`mailsteer report`): a year, and
        /// a month to compare it with.
        #[schemars(extend("default" = 400))]
        history_days: i64,
        /// Ended suspensions and bypasses that are kept at most, some 200 bytes each on the disk.
        #[schemars(extend("default" = 50_000))]
        history_max: i64,
    }
}

table! {
    /// An interface and gateway by which mail leaves the host.
    #[schemars(rename = "Uplink")]
    pub(crate) struct RawUplink {
        /// The interface's name.
        #[schemars(required)]
        interface: String,
        /// Next hop; a list for one of each family. None: what lies beyond is reached directly (ppp, wg).
        gateway: Many<String>,
        /// Networks: a source belongs to the uplink whose prefix holds it. Needed where there are several uplinks.
        prefix: Many<String>,
    }
}

table! {
    /// Receivers that judge together: told by `networks`, by `mx`, or by both. One that is called as a group of `[providers]` adds to it.
    #[schemars(rename = "Provider")]
    pub(crate) struct RawProvider {
        /// The networks that its mail servers are in. They come before any name.
        networks: Many<String>,
        /// Names that MX records of its recipients' domains point at: `"mx.example.net"`, or `"*.example.net"` for all names below.
        /// It takes `[providers]`.
        mx: Many<String>,
    }
}

table! {
    /// Sources that mail may leave from.
    #[schemars(rename = "Pool")]
    pub(crate) struct RawPool {
        /// The sources, each an address, a network (all of its addresses), a range `"a-b"`, or a table. They are
        /// named `<pool>-1`, `<pool>-2` and so on, in the order written.
        #[schemars(required)]
        addresses: Many<RawSource>,
        /// Backup sources, used when fewer than `min_healthy` of `addresses` are eligible; best in another network. Named
        /// `<pool>-spare-1` and so on.
        spare: Many<RawSource>,
        /// Shares by source name; what is not named has 1, and 0 is never used.
        weights: Keyed<At<i64>>,
        /// The EHLO name of the pool's MTA transports: a full host name. PTR and A of each address should fit it.
        ehlo: String,
        /// How a connection's source is drawn: in turn, at random, or always the same one for the same
        /// destination address.
        #[schemars(extend("default" = "round-robin"))]
        balance: Word<Balance>,
        /// With fewer eligible `addresses` of a family than this, the `spare` ones take over what the others held, and hand
        /// it back with their return.
        #[schemars(extend("default" = 1))]
        min_healthy: i64,
    }
}

table! {
    /// One source, with what cannot be said by its address alone.
    #[schemars(rename = "Source")]
    pub(crate) struct RawSourceTable {
        /// The address on this host.
        #[schemars(required)]
        local: String,
        /// The address the world sees, where a 1:1 NAT translates. It is the source's identity. Default: `local`.
        public: String,
        /// A label of your own.
        name: String,
        /// Its share of the pool's connections; 0 is never used.
        #[schemars(extend("default" = 1))]
        weight: i64,
    }
}

table! {
    /// Whose mail, and where it leaves. Every match key that is written must fit; of a list, one entry is enough.
    /// A stream without any match key takes all that streams before it left.
    #[schemars(rename = "Stream")]
    pub(crate) struct RawStream {
        /// The pool it leaves from.
        #[schemars(required)]
        pool: String,
        /// Name of the user whose process connects.
        user: Many<String>,
        /// Number of the user whose process connects.
        uid: Many<i64>,
        /// Name of the process's group.
        group: Many<String>,
        /// Number of the process's group.
        gid: Many<i64>,
        /// cgroup of the process, as a path from the cgroup root, such as `system.slice/system-postfix.slice/postfix@-.service`.
        cgroup: Many<String>,
        /// A private address that an MTA's transport binds (Postfix: `-o smtp_bind_address=198.18.0.2`).
        /// mailsteer keeps it on lo; it never reaches the wire.
        tag: Many<String>,
        /// Source network of forwarded traffic: containers.
        subnet: Many<String>,
        /// Packet mark (fwmark) that another program sets.
        mark: Many<i64>,
        /// Interface by which forwarded traffic comes in, such as a container bridge.
        via: Many<String>,
        /// Destination network.
        destination: Many<String>,
        /// Providers: receivers that are theirs.
        provider: Many<String>,
        /// Countries that the receiver is in, by their two letters (ISO 3166-1), such as `"DE"`. It takes `[countries]`.
        destination_country: Many<String>,
        /// When no source of the pool is eligible: refuse the connection, so that the MTA defers, or let it pass
        /// unsteered, by whatever address the host takes.
        #[schemars(extend("default" = "refuse"))]
        on_exhausted: Word<OnExhausted>,
        /// IPv6 connections of a pool without an IPv6 source: refuse them, so that the MTA falls back to IPv4, or
        /// let them pass unsteered.
        #[schemars(extend("default" = "refuse"))]
        ipv6: Word<Ipv6>,
        /// When the flips of the day (`[safety] flips_per_day`) are used up and another source fails: hold, so that no
        /// further share moves, or stop the stream at that provider.
        #[schemars(extend("default" = "hold"))]
        on_relapse: Word<OnRelapse>,
        /// Live connections of a source that has lost its last slot: let them finish, close those that the MTA keeps
        /// for its next message, or cut them all at once. What is cut after the message was sent and before the
        /// receiver's answer came is delivered twice.
        #[schemars(extend("default" = "finish"))]
        on_flip: Word<OnFlip>,
        /// This stream's own mode, in place of the file's.
        mode: RawMode,
    }
}

/// A mode as written.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum RawMode {
    /// A word.
    Word(ModeWord),
    /// `{ canary = 0.30 }`
    Canary(At<f64>),
}

/// A mode that needs no number.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum ModeWord {
    /// Count, change nothing.
    Observe,
    /// Steer all.
    Enforce,
}

table! {
    /// Steer a share.
    #[schemars(rename = "Canary")]
    pub(crate) struct RawCanary {
        /// The share, over 0 and under 1.
        #[schemars(required)]
        canary: f64,
    }
}

impl FromToml for RawMode {
    fn from_toml(value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self> {
        match value.get_ref() {
            DeValue::String(_) => Word::from_toml(value, problems).map(|Word(word)| Self::Word(word)),
            DeValue::Table(_) => {
                let before = problems.len();
                let canary = RawCanary::from_toml(value, problems)?.canary;
                if canary.is_none() && problems.len() == before {
                    wrong_type(value, "{ canary = 0.30 }", problems);
                }
                canary.map(Self::Canary)
            }
            _ => {
                wrong_type(value, "\"observe\", \"enforce\" or { canary = 0.30 }", problems);
                None
            }
        }
    }
}

impl JsonSchema for RawMode {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Mode".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let word = generator.subschema_for::<Word<ModeWord>>();
        let canary = generator.subschema_for::<RawCanary>();
        json_schema!({ "anyOf": [word, canary] })
    }
}

/// A source as written.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum RawSource {
    /// An address, a network or a range.
    Text(String),
    /// A table.
    Table(RawSourceTable),
}

impl FromToml for RawSource {
    fn from_toml(value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self> {
        match value.get_ref() {
            DeValue::String(text) => Some(Self::Text(text.to_string())),
            DeValue::Table(_) => RawSourceTable::from_toml(value, problems).map(Self::Table),
            _ => {
                wrong_type(value, "an address in quotes, or { local = \"...\", public = \"...\" }", problems);
                None
            }
        }
    }
}

impl JsonSchema for RawSource {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AddressOrSource".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let text = generator.subschema_for::<String>();
        let table = generator.subschema_for::<RawSourceTable>();
        json_schema!({ "anyOf": [text, table] })
    }
}

impl Words for Check {
    const WORDS: &'static [(&'static str, Self)] =
        &[("ptr", Self::Ptr), ("forward", Self::Forward), ("ehlo", Self::Ehlo), ("spf", Self::Spf)];
}

impl Words for ModeWord {
    const WORDS: &'static [(&'static str, Self)] = &[("observe", Self::Observe), ("enforce", Self::Enforce)];
}

impl Words for Mta {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("postfix", Self::Postfix),
        ("exim", Self::Exim),
        ("opensmtpd", Self::OpenSmtpd),
        ("sendmail", Self::Sendmail),
    ];
}

impl Words for Plumbing {
    const WORDS: &'static [(&'static str, Self)] = &[("plumb", Self::Plumb), ("adopt", Self::Adopt)];
}

impl Words for OwnTable {
    const WORDS: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("never", Self::Never)];
}

impl Words for Ebpf {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("required", Self::Required), ("off", Self::Off)];
}

impl Words for Balance {
    const WORDS: &'static [(&'static str, Self)] =
        &[("round-robin", Self::RoundRobin), ("random", Self::Random), ("sticky", Self::Sticky)];
}

impl Words for OnExhausted {
    const WORDS: &'static [(&'static str, Self)] = &[("refuse", Self::Refuse), ("pass", Self::Pass)];
}

impl Words for OnRelapse {
    const WORDS: &'static [(&'static str, Self)] = &[("hold", Self::Hold), ("stop", Self::Stop)];
}

impl Words for OnFlip {
    const WORDS: &'static [(&'static str, Self)] =
        &[("finish", Self::Finish), ("close-idle", Self::CloseIdle), ("cut", Self::Cut)];
}

impl Words for Ipv6 {
    const WORDS: &'static [(&'static str, Self)] = &[("refuse", Self::Refuse), ("pass", Self::Pass)];
}
