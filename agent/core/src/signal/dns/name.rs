//! Domain names, as text.

/// Lower case, without the last dot.
pub(super) fn tidy(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Whether both are one name.
#[must_use]
pub fn same(one: &str, other: &str) -> bool {
    tidy(one) == tidy(other)
}

/// Whether a name is another, or lies below it.
#[must_use]
pub fn is_below(name: &str, above: &str) -> bool {
    let (name, above) = (tidy(name), tidy(above));
    name == above || name.strip_suffix(&above).is_some_and(|rest| rest.ends_with('.'))
}

/// The name without its first label, if any is left.
#[must_use]
pub fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent).filter(|parent| !parent.is_empty())
}

/// Whether it can be asked for as a domain of somebody: at least two labels, none empty, none longer than the DNS has room for
/// (RFC 7208 section 4.3).
#[must_use]
pub fn is_domain(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| (1..=63).contains(&label.len());
    name.is_ascii() && name.len() <= 253 && name.contains('.') && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_is_by_labels() {
        assert!(is_below("a.Example.com.", "example.com"));
        assert!(is_below("example.com", "EXAMPLE.com."));
        assert!(!is_below("badexample.com", "example.com"));
        assert!(!is_below("com", "example.com"));
    }

    #[test]
    fn domains_have_two_labels_of_a_lawful_length() {
        for good in ["example.com", "example.com.", "_dmarc.example.com"] {
            assert!(is_domain(good), "{good}");
        }
        let long = format!("{}.com", "a".repeat(64));
        for bad in ["", "com", "a..com", ".com", "example.com..", &long, "ä.com"] {
            assert!(!is_domain(bad), "{bad}");
        }
        assert_eq!(parent("a.b"), Some("b"));
        assert_eq!(parent("b"), None);
    }
}
