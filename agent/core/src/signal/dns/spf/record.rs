//! An SPF record's grammar (RFC 7208 section 12).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::macros::Spec;
use crate::signal::dns::tags::shortened;

/// What a match means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Qualifier {
    /// `+`, or nothing.
    Pass,
    /// `-`
    Fail,
    /// `~`
    SoftFail,
    /// `?`
    Neutral,
}

/// Lengths of prefixes, of IPv4 and of IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    /// 0 to 32.
    pub v4: u8,
    /// 0 to 128.
    pub v6: u8,
}

impl Cidr {
    /// Single addresses.
    pub const WHOLE: Self = Self { v4: 32, v6: 128 };

    /// Whether an address lies in the network of another one.
    #[must_use]
    pub fn covers(self, network: IpAddr, address: IpAddr) -> bool {
        let length = if network.is_ipv4() { self.v4 } else { self.v6 };
        IpNet::new(network, length).is_ok_and(|network| network.contains(&address))
    }
}

/// What matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mechanism {
    /// Everybody.
    All,
    /// Whoever passes that domain's record.
    Include(Spec),
    /// The domain's addresses.
    A(Option<Spec>, Cidr),
    /// Addresses of those who take its mail.
    Mx(Option<Spec>, Cidr),
    /// Whose name lies below the domain.
    Ptr(Option<Spec>),
    /// A network.
    Ip(IpNet),
    /// Everybody, if the domain has an address.
    Exists(Spec),
}

/// A qualifier and a mechanism.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directive {
    /// What a match means.
    pub qualifier: Qualifier,
    /// What matches.
    pub mechanism: Mechanism,
    /// As it is written.
    pub text: String,
}

/// A record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// In the order of the record.
    pub directives: Vec<Directive>,
    /// Whose record decides where nothing matches.
    pub redirect: Option<Spec>,
}

impl Record {
    /// Whether a text is meant to be an SPF record (section 4.5).
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        let version = text.get(..6).is_some_and(|version| version.eq_ignore_ascii_case("v=spf1"));
        version && matches!(text.as_bytes().get(6), None | Some(b' '))
    }

    /// Reads a record. An error anywhere is an error of the whole (section 4.6).
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !Self::is_meant(text) {
            return Err("it does not begin with `v=spf1`".to_owned());
        }
        let mut record = Self { directives: vec![], redirect: None };
        let mut explained = false;
        for term in text[6..].split(' ').filter(|term| !term.is_empty()) {
            let wrong = |why: String| format!("`{}`: {why}", shortened(term));
            match modifier(term) {
                None => record.directives.push(directive(term).map_err(wrong)?),
                Some((name, value)) if name.eq_ignore_ascii_case("redirect") => {
                    if record.redirect.replace(Spec::domain(value).map_err(wrong)?).is_some() {
                        return Err("`redirect=` stands there twice".to_owned());
                    }
                }
                Some((name, value)) if name.eq_ignore_ascii_case("exp") => {
                    Spec::domain(value).map_err(wrong)?;
                    if std::mem::replace(&mut explained, true) {
                        return Err("`exp=` stands there twice".to_owned());
                    }
                }
                Some((name, value)) => {
                    if !is_name(name) {
                        return Err(wrong("no modifier is called so".to_owned()));
                    }
                    Spec::macro_string(value, "slodiphvcrt").map_err(wrong)?;
                }
            }
        }
        Ok(record)
    }
}

/// Name and value, where a `=` comes before any `:` or `/`.
fn modifier(term: &str) -> Option<(&str, &str)> {
    let at = term.find([':', '/', '='])?;
    term[at..].starts_with('=').then(|| (&term[..at], &term[at + 1..]))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

fn directive(term: &str) -> Result<Directive, String> {
    let (qualifier, rest) = match term.as_bytes().first() {
        Some(b'+') => (Qualifier::Pass, &term[1..]),
        Some(b'-') => (Qualifier::Fail, &term[1..]),
        Some(b'~') => (Qualifier::SoftFail, &term[1..]),
        Some(b'?') => (Qualifier::Neutral, &term[1..]),
        _ => (Qualifier::Pass, term),
    };
    let at = rest.find([':', '/']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(at);
    Ok(Directive { qualifier, mechanism: mechanism(name, rest)?, text: term.to_owned() })
}

/// `rest` begins with `:` or `/`, or is empty.
fn mechanism(name: &str, rest: &str) -> Result<Mechanism, String> {
    let value = rest.strip_prefix(':');
    match name.to_ascii_lowercase().as_str() {
        "all" if rest.is_empty() => Ok(Mechanism::All),
        "all" => Err("nothing stands after `all`".to_owned()),
        "include" => Ok(Mechanism::Include(Spec::domain(value.ok_or("a domain is missing")?)?)),
        "exists" => Ok(Mechanism::Exists(Spec::domain(value.ok_or("a domain is missing")?)?)),
        "ptr" if rest.is_empty() => Ok(Mechanism::Ptr(None)),
        "ptr" => Ok(Mechanism::Ptr(Some(Spec::domain(value.ok_or("`ptr` has no prefix length")?)?))),
        "a" => of_domain(rest).map(|(spec, cidr)| Mechanism::A(spec, cidr)),
        "mx" => of_domain(rest).map(|(spec, cidr)| Mechanism::Mx(spec, cidr)),
        "ip4" => network(value, |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4), 32),
        "ip6" => network(value, |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6), 128),
        _ => Err("no mechanism is called so".to_owned()),
    }
}

/// `[ ":" domain-spec ] [ dual-cidr-length ]`
fn of_domain(rest: &str) -> Result<(Option<Spec>, Cidr), String> {
    let Some(value) = rest.strip_prefix(':') else { return Ok((None, cidr(rest)?)) };
    // A `/` may stand in the domain too; the lengths come after its last dot or macro.
    let from = value.rfind(['.', '}']).unwrap_or(0);
    let at = value[from..].find('/').map_or(value.len(), |slash| from + slash);
    let (domain, lengths) = value.split_at(at);
    Ok((Some(Spec::domain(domain)?), cidr(lengths)?))
}

/// Nothing, `/24`, `//64` or `/24//64`.
fn cidr(text: &str) -> Result<Cidr, String> {
    let (v4, v6) = match text.split_once("//") {
        Some((v4, v6)) => (v4, Some(v6)),
        None => (text, None),
    };
    let v4 = match v4.strip_prefix('/') {
        Some(digits) => length(digits, 32)?,
        None if v4.is_empty() => Cidr::WHOLE.v4,
        None => return Err(format!("`{v4}` is no prefix length")),
    };
    Ok(Cidr { v4, v6: v6.map_or(Ok(Cidr::WHOLE.v6), |digits| length(digits, 128))? })
}

fn network(
    value: Option<&str>,
    read: impl Fn(&str) -> Option<IpAddr>,
    longest: u8,
) -> Result<Mechanism, String> {
    let value = value.ok_or("a network is missing")?;
    let (address, length) = match value.split_once('/') {
        Some((address, digits)) => (address, length(digits, longest)?),
        None => (value, longest),
    };
    let address =
        read(address).ok_or_else(|| format!("`{}` is no address of its family", shortened(address)))?;
    IpNet::new(address, length).map(Mechanism::Ip).map_err(|error| error.to_string())
}

/// A number without leading zeros.
fn length(digits: &str, longest: u8) -> Result<u8, String> {
    let plain = digits.bytes().all(|c| c.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    let length = digits.parse::<u8>().ok().filter(|length| plain && *length <= longest);
    length.ok_or_else(|| format!("`/{}` is no prefix length of 0 to {longest}", shortened(digits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_by_its_version_whatever_its_case() {
        for good in ["v=spf1", "v=spf1 -all", "V=SpF1 -ALL"] {
            assert!(Record::is_meant(good), "{good}");
        }
        for bad in ["v=spf10", "v=spf1\t-all", " v=spf1", "v=spf2 -all", "", "v=sp", "ääää"] {
            assert!(!Record::is_meant(bad), "{bad}");
        }
    }

    #[test]
    fn terms_are_read_as_the_grammar_has_them() {
        for good in [
            "v=spf1 a mx ptr -all",
            "v=spf1  +a:example.com/24//64 ~mx/0 ?a//0 ptr:example.com ",
            "v=spf1 a:x/y.example.com/24",
            "v=spf1 a:%{d}/24",
            "v=spf1 ip4:192.0.2.0/24 IP6:2001:db8::/32 ip6:::ffff:1.2.3.4/128 ip4:192.0.2.1",
            "v=spf1 include:_spf.%{d} exists:%{ir}.list.example.com redirect=example.com exp=why.%{d}",
            "v=spf1 any.thing-else_1= other=%{c}",
        ] {
            assert!(Record::parse(good).is_ok(), "{good}: {:?}", Record::parse(good));
        }
        let record = Record::parse("v=spf1 -a:example.com/24//64").unwrap();
        let [directive] = record.directives.as_slice() else { panic!() };
        assert_eq!(directive.qualifier, Qualifier::Fail);
        assert!(matches!(directive.mechanism, Mechanism::A(Some(_), Cidr { v4: 24, v6: 64 })));
    }

    #[test]
    fn an_error_anywhere_is_an_error_of_the_whole() {
        for bad in [
            "all:x",
            "all/24",
            "include",
            "include:",
            "include:com",
            "exists",
            "ptr/24",
            "ptr:",
            "a:",
            "a:com",
            "a:example.com/33",
            "a:example.com//129",
            "a/01",
            "a/",
            "a//",
            "a:example.com/24/64",
            "a:/24",
            "mx:example.com:8080",
            "ip4",
            "ip4:",
            "ip4:2001:db8::",
            "ip4:192.0.2",
            "ip4:192.0.2.0/33",
            "ip4:192.0.2.0/",
            "ip4:192.0.2.01",
            "ip6:192.0.2.1",
            "ip6:2001:db8::/129",
            "ip6:::/00",
            "redirect=",
            "redirect=a.com redirect=b.com",
            "exp=a.com exp=b.com",
            "exp=",
            "-redirect=a.com",
            "1x=y",
            "foo",
            "foo:bar",
            "=x",
            "a\tb",
            "-",
            "ALL=",
            "x=%{z}",
            "a:ex\u{e4}mple.com",
            "//",
        ] {
            let record = format!("v=spf1 ip4:192.0.2.1 {bad}");
            // `ALL=` is a modifier that nobody knows, and lawful.
            assert_eq!(Record::parse(&record).is_err(), bad != "ALL=", "{bad}");
        }
    }
}
