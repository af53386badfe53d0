//! DKIM keys as they are published (RFC 6376 section 3.6.1, RFC 8301, RFC 8463).
//!
//! Owns: reading a key and what is unsound in it. Must not: verify a signature; nobody here has the private half.

use super::tags::{shortened, tags, value};

/// Receivers must refuse less (RFC 8301 section 3.2).
const LEAST_BITS: u32 = 1024;
/// Signers should use at least this (RFC 8301 section 3.2).
const GOOD_BITS: u32 = 2048;
/// Receivers need not manage more (RFC 8301 section 3.2).
const MOST_BITS: u32 = 4096;

/// A key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Key {
    /// RSA, with the bits of its modulus.
    Rsa(u32),
    /// Ed25519.
    Ed25519,
}

/// A key that receivers can use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sound {
    /// The key.
    pub key: Key,
    /// What should still be mended.
    pub warnings: Vec<String>,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA, {bits} bits"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

/// Reads a key record.
///
/// # Errors
/// Why receivers cannot use it, in words.
pub fn read(text: &str) -> Result<Sound, String> {
    let tags = tags(text)?;
    if let Some(version) = value(&tags, "v") {
        if version != "DKIM1" {
            return Err(format!("`v={}` is no version of DKIM: it has to be DKIM1", shortened(version)));
        }
        if tags.first().is_some_and(|(name, _)| name != "v") {
            return Err("`v=DKIM1` does not stand first".to_owned());
        }
    }
    let Some(written) = value(&tags, "p") else { return Err("`p=`, the key, is missing".to_owned()) };
    let written: String = written.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    if written.is_empty() {
        return Err("`p=` is empty: the key is revoked".to_owned());
    }
    let has = |name: &str, wanted: &[&str]| {
        let listed = value(&tags, name)?;
        Some(listed.split(':').any(|one| wanted.iter().any(|word| one.trim().eq_ignore_ascii_case(word))))
    };
    if has("s", &["*", "email"]) == Some(false) {
        return Err("`s=` does not let it be used for mail".to_owned());
    }
    if has("h", &["sha256"]) == Some(false) {
        return Err("`h=` leaves SHA-256 out, and receivers refuse SHA-1 (RFC 8301)".to_owned());
    }
    let Some(bytes) = base64(&written) else { return Err("`p=` is no Base64".to_owned()) };
    let mut sound = match value(&tags, "k").unwrap_or("rsa").to_ascii_lowercase().as_str() {
        "rsa" => rsa(&bytes)?,
        "ed25519" => ed25519(&bytes)?,
        other => return Err(format!("`k={}` is no kind of key that receivers know", shortened(other))),
    };
    if has("t", &["y"]) == Some(true) {
        sound.warnings.push("`t=y` says that the domain only tests DKIM".to_owned());
    }
    Ok(sound)
}

fn rsa(bytes: &[u8]) -> Result<Sound, String> {
    let Some((bits, exponent)) = modulus(bytes) else {
        return Err("`p=` is no RSA key: some of it may be missing".to_owned());
    };
    if bits < LEAST_BITS {
        return Err(format!("an RSA key of {bits} bits: receivers refuse less than {LEAST_BITS} (RFC 8301)"));
    }
    if exponent.last().is_none_or(|last| last % 2 == 0) || exponent == [1] {
        return Err("an RSA key with an exponent that cannot be".to_owned());
    }
    let mut warnings = vec![];
    if bits < GOOD_BITS {
        warnings.push(format!("RSA keys should have {GOOD_BITS} bits (RFC 8301)"));
    }
    if bits > MOST_BITS {
        warnings.push(format!("receivers need not manage more than {MOST_BITS} bits (RFC 8301)"));
    }
    Ok(Sound { key: Key::Rsa(bits), warnings })
}

fn ed25519(bytes: &[u8]) -> Result<Sound, String> {
    // RFC 8463 section 4: the 32 bytes themselves. Tools like to give them in an ASN.1 wrapping of 12 more.
    match bytes.len() {
        32 => Ok(Sound { key: Key::Ed25519, warnings: vec![] }),
        44 => Err(
            "an Ed25519 key of 44 bytes: leave out the first 12, its wrapping (RFC 8463 has the 32 alone)"
                .to_owned(),
        ),
        other => Err(format!("an Ed25519 key of {other} bytes: it has to have 32 (RFC 8463)")),
    }
}

/// RFC 4648 section 4, padding required.
fn base64(text: &str) -> Option<Vec<u8>> {
    let plain = text.trim_end_matches('=');
    let padding = text.len() - plain.len();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut buffer, mut filled) = (0_u32, 0);
    for c in plain.bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        buffer = (buffer << 6 | u32::from(six)) & 0xffff;
        filled += 6;
        if filled >= 8 {
            filled -= 8;
            bytes.push(u8::try_from(buffer >> filled & 0xff).ok()?);
        }
    }
    Some(bytes)
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
/// rsaEncryption, 1.2.840.113549.1.1.1
const RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const OBJECT: u8 = 0x06;

/// Bits of the modulus, and the exponent, of a SubjectPublicKeyInfo, or of an RSAPublicKey alone, which RFC 6376 speaks of and
/// receivers take too.
fn modulus(der: &[u8]) -> Option<(u32, &[u8])> {
    let (inner, rest) = element(der, SEQUENCE)?;
    if !rest.is_empty() {
        return None;
    }
    let key = match element(inner, SEQUENCE) {
        None => inner,
        Some((algorithm, rest)) => {
            if element(algorithm, OBJECT)?.0 != RSA {
                return None;
            }
            let (bits, rest) = element(rest, BIT_STRING)?;
            let (unused, key) = bits.split_first()?;
            let (key, after) = element(key, SEQUENCE)?;
            if *unused != 0 || !after.is_empty() || !rest.is_empty() {
                return None;
            }
            key
        }
    };
    let (modulus, rest) = element(key, INTEGER)?;
    let (exponent, rest) = element(rest, INTEGER)?;
    if !rest.is_empty() {
        return None;
    }
    let modulus = &modulus[modulus.iter().position(|byte| *byte != 0)?..];
    let exponent = &exponent[exponent.iter().position(|byte| *byte != 0)?..];
    let bits = u32::try_from(modulus.len()).ok()?.checked_mul(8)? - modulus.first()?.leading_zeros();
    Some((bits, exponent))
}

/// The content of a DER element with this tag, and what comes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    if *first != tag {
        return None;
    }
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match *length {
        short @ ..0x80 => (usize::from(short), rest),
        long => {
            let count = usize::from(long & 0x7f);
            if !(1..=3).contains(&count) || rest.len() < count {
                return None;
            }
            let (digits, rest) = rest.split_at(count);
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
    };
    (rest.len() >= length).then(|| rest.split_at(length))
}
