//! What is wrong with a config, said so that a postmaster can mend it.
//!
//! Owns: the shape of a [`Problem`] and its stable codes. Must not: find problems; the checks do. A message says
//! what is wrong, its labels say where, and its help says what to do.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};
use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The config cannot be used.
    Error,
    /// Legal, and unwise.
    Warning,
}

/// A place in the file and what is to be said about it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Label {
    /// Byte offset of its first character.
    pub start: usize,
    /// Byte offset after its last character.
    pub end: usize,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is said about it; may be empty.
    pub text: String,
}

/// One thing that is wrong with a config, or unwise.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// A stable word for the kind of problem, one of [`CODES`].
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// Where; the first is the place to change.
    pub labels: Vec<Label>,
    /// What to do.
    pub help: Option<String>,
    /// The file, so that the problem can show its place.
    #[serde(skip)]
    file: Option<Arc<NamedSource<String>>>,
}

impl Problem {
    /// An error with neither place nor help yet.
    pub(crate) fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            labels: vec![],
            help: None,
            file: None,
        }
    }

    /// A warning with neither place nor help yet.
    pub(crate) fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// Points at a place.
    pub(crate) fn at(mut self, span: &Range<usize>, text: impl Into<String>) -> Self {
        self.labels.push(Label { start: span.start, end: span.end, line: 0, column: 0, text: text.into() });
        self
    }

    /// Says what to do.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Ties the problem to its file, which gives its labels lines and columns.
    pub(crate) fn locate(&mut self, file: &Arc<NamedSource<String>>) {
        for label in &mut self.labels {
            let before = file.inner().get(..label.start).unwrap_or_default();
            let line = before.rsplit('\n').next().unwrap_or_default();
            label.line = before.matches('\n').count() + 1;
            label.column = line.chars().count() + 1;
        }
        self.file = Some(Arc::clone(file));
    }

    /// Byte offset at which the problem begins; the end of the file where it has no place.
    pub(crate) fn start(&self) -> usize {
        self.labels.first().map_or(usize::MAX, |label| label.start)
    }

    /// Whether the config cannot be used because of it.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.file.as_ref().map(|file| file as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().map(|label| {
            let text = (!label.text.is_empty()).then(|| label.text.clone());
            LabeledSpan::new(text, label.start, label.end.saturating_sub(label.start))
        })))
    }
}

macro_rules! codes {
    ($($name:ident = $code:literal,)* ; $($table_name:ident = $table_code:literal,)*) => {
        /// The stable codes of problems.
        pub(crate) mod code {
            $(pub(crate) const $name: &str = $code;)*
            $(pub(crate) const $table_name: &str = $table_code;)*
        }

        /// Every code that a [`Problem`] of a config can bear.
        pub const CODES: &[&str] = &[$($code),*];
    };
}

codes! {
    SYNTAX = "syntax",
    UNKNOWN_KEY = "unknown-key",
    WRONG_TYPE = "wrong-type",
    UNKNOWN_VALUE = "unknown-value",
    MISSING_KEY = "missing-key",
    BAD_NAME = "bad-name",
    CANARY_SHARE = "canary-share",
    PORT_INVALID = "port-invalid",
    PORT_TWICE = "port-twice",
    PORTS_EMPTY = "ports-empty",
    PORT_NOT_MAIL = "port-not-mail",
    BAD_NETWORK = "bad-network",
    EXCLUDE_EVERYTHING = "exclude-everything",
    EXCLUDE_FAMILY = "exclude-family",
    EXCLUDE_WITHOUT_PRIVATE = "exclude-without-private",
    METRICS_NOT_LOOPBACK = "metrics-not-loopback",
    METRICS_INVALID = "metrics-invalid",
    RETENTION_INVALID = "retention-invalid",
    SAFETY_INVALID = "safety-invalid",
    MIN_HEALTHY_INVALID = "min-healthy-invalid",
    BAD_INTERFACE = "bad-interface",
    GATEWAY_INVALID = "gateway-invalid",
    GATEWAY_FAMILY_TWICE = "gateway-family-twice",
    GATEWAY_FAMILY = "gateway-family",
    GATEWAY_IS_SOURCE = "gateway-is-source",
    UPLINK_SAME = "uplink-same",
    UPLINK_WITHOUT_PREFIX = "uplink-without-prefix",
    UPLINK_UNUSED = "uplink-unused",
    UPLINK_NOT_ON_HOST = "uplink-not-on-host",
    TOO_MANY_UPLINKS = "too-many-uplinks",
    SOURCE_WITHOUT_UPLINK = "source-without-uplink",
    SOURCE_IN_TWO_UPLINKS = "source-in-two-uplinks",
    POOL_EMPTY = "pool-empty",
    POOL_UNUSED = "pool-unused",
    POOL_WITHOUT_IPV4 = "pool-without-ipv4",
    BAD_ADDRESS = "bad-address",
    BAD_RANGE = "bad-range",
    RANGE_NOT_ALIGNED = "range-not-aligned",
    RANGE_TOO_LARGE = "range-too-large",
    SOURCE_NOT_USABLE = "source-not-usable",
    PUBLIC_MISSING = "public-missing",
    PUBLIC_IS_PRIVATE = "public-is-private",
    PUBLIC_OTHER_FAMILY = "public-other-family",
    ADDRESS_TWICE = "address-twice",
    PAIR_DIFFERS = "pair-differs",
    SOURCE_TWO_NAMES = "source-two-names",
    SOURCE_IN_TWO_POOLS = "source-in-two-pools",
    SOURCE_NAME_TAKEN = "source-name-taken",
    TOO_MANY_SOURCES = "too-many-sources",
    UNKNOWN_SOURCE = "unknown-source",
    WEIGHT_INVALID = "weight-invalid",
    WEIGHT_TWICE = "weight-twice",
    WEIGHTS_ALL_ZERO = "weights-all-zero",
    WEIGHTS_APPROXIMATED = "weights-approximated",
    EHLO_NOT_FQDN = "ehlo-not-fqdn",
    SPARE_SAME_NETWORK = "spare-same-network",
    ADDRESS_NOT_ON_HOST = "address-not-on-host",
    ADDRESS_IS_NETWORK_EDGE = "address-is-network-edge",
    ALIAS_SHARES_PREFIX = "alias-shares-prefix",
    FAMILY_NOT_ON_HOST = "family-not-on-host",
    TOO_MANY_STREAMS = "too-many-streams",
    TOO_MANY_LANES = "too-many-lanes",
    PROVIDERS_OVERLAP = "providers-overlap",
    UNKNOWN_POOL = "unknown-pool",
    UNKNOWN_USER = "unknown-user",
    UNKNOWN_GROUP = "unknown-group",
    ID_INVALID = "id-invalid",
    USER_IS_ROOT = "user-is-root",
    BAD_CGROUP = "bad-cgroup",
    CGROUP_WITHOUT_EBPF = "cgroup-without-ebpf",
    MARK_INVALID = "mark-invalid",
    VIA_IS_UPLINK = "via-is-uplink",
    VIA_NOT_ON_HOST = "via-not-on-host",
    MATCH_EMPTY = "match-empty",
    TAG_IS_POOL_ADDRESS = "tag-is-pool-address",
    TAG_NOT_PRIVATE = "tag-not-private",
    TAG_IN_TWO_STREAMS = "tag-in-two-streams",
    TAG_IN_USE_ON_HOST = "tag-in-use-on-host",
    NEVER_MATCHES = "never-matches",
    DESTINATION_EXCLUDED = "destination-excluded",
    STREAMS_SAME_MATCH = "streams-same-match",
    STREAM_UNREACHABLE = "stream-unreachable",
    FUSE_INVALID = "fuse-invalid",
    LISTS_INVALID = "lists-invalid",
    PREFLIGHT_INVALID = "preflight-invalid",
    UNKNOWN_LIST = "unknown-list",
    LIST_WITHOUT_KEY = "list-without-key",
    PUBLIC_RESOLVER = "public-resolver",
    DNS_INVALID = "dns-invalid",
    DNS_NEVER_CHECKED = "dns-never-checked",
    BAD_DOMAIN = "bad-domain",
    DOMAIN_WITHOUT_DNS = "domain-without-dns",
    FEED_INVALID = "feed-invalid",
    HOOK_INVALID = "hook-invalid",
    UNKNOWN_EVENT = "unknown-event",
    SECRET_IN_CLEAR = "secret-in-clear",
    PROVIDERS_INVALID = "providers-invalid",
    UNKNOWN_PROVIDER = "unknown-provider",
    MX_INVALID = "mx-invalid",
    COUNTRY_INVALID = "country-invalid",
    COUNTRY_UNKNOWN = "country-unknown",
    DATABASE_INVALID = "database-invalid",
    LOG_INVALID = "log-invalid",
    LOG_PLACE = "log-place",
    LOG_TWICE = "log-twice",
    LOG_IN_ENVELOPES = "log-in-envelopes",
    ;
    PATTERN_INVALID = "pattern-invalid",
    RULE_INVALID = "rule-invalid",
    MONTH_INVALID = "month-invalid",
    CODE_INVALID = "code-invalid",
    UNTESTED = "list-untested",
}
