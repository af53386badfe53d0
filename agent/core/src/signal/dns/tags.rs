//! `tag=value; tag=value`, the form of DKIM keys and DMARC records (RFC 6376 section 3.2).

/// The tags in their order, names in lower case, values without white space around them.
///
/// # Errors
/// What cannot be read, in words; a tag that stands twice is such.
pub(super) fn tags(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut found: Vec<(String, String)> = vec![];
    let mut parts: Vec<&str> = text.split(';').collect();
    // A last semicolon ends the list.
    if parts.last().is_some_and(|last| last.trim().is_empty()) {
        parts.pop();
    }
    for part in parts {
        let Some((name, value)) = part.split_once('=') else {
            return Err(format!("`{}` is no tag=value", shortened(part.trim())));
        };
        let name = name.trim();
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
        if !is_name {
            return Err(format!("`{}` is no name of a tag", shortened(name)));
        }
        let name = name.to_ascii_lowercase();
        if found.iter().any(|(other, _)| *other == name) {
            return Err(format!("`{name}=` stands there twice"));
        }
        found.push((name, value.trim().to_owned()));
    }
    Ok(found)
}

/// The value of a tag.
pub(super) fn value<'t>(tags: &'t [(String, String)], name: &str) -> Option<&'t str> {
    tags.iter().find(|(tag, _)| tag == name).map(|(_, value)| value.as_str())
}

/// Foreign text, cut so that it fits a sentence and shows nothing but letters.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    let mut out: String = text.chars().filter(|c| !c.is_control()).take(MOST).collect();
    if text.chars().count() > MOST {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_tags_are_read_as_rfc_6376_has_them() {
        let found = tags(" v = DKIM1 ;K=rsa; p=MIGf MA0 ;").unwrap();
        assert_eq!(value(&found, "v"), Some("DKIM1"));
        assert_eq!(value(&found, "k"), Some("rsa"));
        assert_eq!(value(&found, "p"), Some("MIGf MA0"));
        assert_eq!(tags("p=").unwrap(), [("p".to_owned(), String::new())]);
        assert!(tags("p=a; p=b").is_err() && tags("p").is_err() && tags("p=a;;q=b").is_err());
        assert!(tags("").unwrap().is_empty());
    }
}
