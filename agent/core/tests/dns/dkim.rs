//! DKIM keys: sound, weak, revoked, broken. The keys were made by `openssl genrsa` for this test, and nobody has the other halves.

use mailsteer_core::signal::dns::dkim::{Key, read};
use proptest::prelude::*;

pub(crate) const RSA_768: &str = concat!(
    "MHwwDQYJKoZIhvcNAQEBBQADawAwaAJhAKcIFS7nDop0oc1A3cmUZCidpUNuGSdPed/djDcvp5M2cnGm/5fKkiTykxb5GSiDk41V",
    "1hRDe1VFrhS1/8bqFRAphN6qU8tLXdlW4fR2vSyUKIbtJcICCyquZBvllZ70AwIDAQAB",
);
pub(crate) const RSA_1024: &str = concat!(
    "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDL3ZJNRoWcZ5EW2NXsNRs1D+fp/Xu9g8EIcMDoThSwsOqaJ56Xa3h6gXC++5AM",
    "826CYcUZVRhkN+7umJbyT9u3RNQ2PYYOhzG9Ql7G3czQLk8RYVh+bDbc17miSPO6MzwKwQxFiy3F4whHTIdYG5WbY6uNEIudF6ap",
    "vP9AF0Go8QIDAQAB",
);
pub(crate) const RSA_2048: &str = concat!(
    "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAj2IfoWXJdT45gkwA3i7WWdAhen0PQJbEQStq6KHJA5HPRjfaP7qH71DB",
    "bNmNEnUx8k0s+OTEqiEqqzyMtCdbaP8Ko7SzkhtkqvfHh5xQsERpyPT2TQ5jq377QJxKh7vhfvnHzs2hJYcqNO4FzGczjwxQBRRX",
    "l9YhETb+0Lz+lH77zkbXxBX70ijEUl0GnyIfXdAvcdVOOs9tJDleh6PZ6T5osTq0mXUVro6n3oOF6NZx55AmKn+UoQQ1MwGVuWFs",
    "7aUMtvpAl09K+qQQ42P/e8+Rbj9w4sauryvIvfa5onADKtYl+V92nAc4nlFxX1pgHWMZFlzrGLLVLKQMhqXZAwIDAQAB",
);
pub(crate) const RSA_4096: &str = concat!(
    "MIICIjANBgkqhkiG9w0BAQEFAAOCAg8AMIICCgKCAgEAvhdLL9rsMKBmsNXRy/V8VesI1exYJwC/D5/8Xg/ApkwLlzjm0MSIozsL",
    "WBv4AcLkdn+ZSuDGNtZ4s55Q5cYqFnxTySFOJXOZxzDkMXUFSnMcmhq4kcZmpKJOBa4pZE6w4WmY1rwqNEEXpeFNLiq5GcsO2Azp",
    "850q8gS8+afe+ana+5KbJQA8o1cSZE/IJJogD3zWgEusWUrbl+EdJvp1pE3SAWKrjc5/3BajwjWQorecNGlqmiqSPj+S5YnhaQ0F",
    "+oVHbYZPpXfnhggpOxaIaYkqX2tKj3J1W3Lc3Hb7CmpfhwBu4tL9AdcASQWbCjQtTtHIyXh/h99zI1JLBg2xQ7G2cQzgPo0khul9",
    "x1qS+Z4KImT+Ou6NT4is+B/SQ155F61JrrlEN55GOeTNUJrLkPdO+IoTlyomx0WoZir2fOrTaywnlKcK1BNQg4cr97YM+QpQBkP5",
    "NJQ9Krt5nT6rXUjg8H132IjcVQYkjXXbwqsNEQdPUhjCSuOjyDzjWtU1hStw/slHWJnuGafbKBfRECpZ5BoSngUpx6VNahcLQAj8",
    "Q7JFQjIMr368rYA/q4c35MTkZruuibODHClVGUEbuSiQSBGiTpFqgAL4kFflhyWYtZrvuC0lkocmUuOIbnaRfGEpij1osgdDx4fg",
    "r9Gsc3d541WpEuGFMD3teJnQI9sCAwEAAQ==",
);
/// An RSAPublicKey without its wrapping.
const BARE_2048: &str = concat!(
    "MIIBCgKCAQEAqb3pCOydGS7rNTZnUCCjFBmDBymRVvLUXTaUeUxYQzojnG+82giuRRteRJ8luNgUE8DGeE7zeSxf+L7In2d1p9KM",
    "FfD4295gH+gmH2UKA8Jaa2OP2X8bAaHvb+PrrB7/wjbRAXnP24Un6OPGRm7N+BtktPHYriSdLPlTQC5DsV2lM4Ln6lu0OLPF7Gdk",
    "h84xif/RMXUCE5wkeGCwH6O44H3yIIpWMGfNzd6KCuYiZB678n16mEfvT9M2xy3TOfhqT2zUydc2AB3TWYIkup5/eUpbfGaU/ldR",
    "4yEHSqH6/jogItlADwV6wNJPYYae6xS6+UASsun7JNwgRRlxALc/VQIDAQAB",
);
/// Of RFC 8463 appendix A.2.
pub(crate) const ED25519: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

fn why(text: &str) -> String {
    read(text).unwrap_err()
}

#[test]
fn sound_keys() {
    let key = |text: &str| read(text).map(|sound| (sound.key, sound.warnings.len()));
    assert_eq!(key(&format!("v=DKIM1; k=rsa; p={RSA_2048}")), Ok((Key::Rsa(2048), 0)));
    assert_eq!(key(&format!("p={RSA_2048}")), Ok((Key::Rsa(2048), 0)));
    assert_eq!(key(&format!("p={BARE_2048}")), Ok((Key::Rsa(2048), 0)));
    assert_eq!(key(&format!("v=DKIM1; p={RSA_4096}")), Ok((Key::Rsa(4096), 0)));
    assert_eq!(key(&format!("v=DKIM1; k=ed25519; p={ED25519}")), Ok((Key::Ed25519, 0)));
    // White space within Base64, other hashes and services beside, flags, notes.
    let (left, right) = RSA_2048.split_at(100);
    let text = format!("v=DKIM1; h=sha1:sha256; s=email:x; t=s; n=note; p={left} \t{right}; ");
    assert_eq!(key(&text), Ok((Key::Rsa(2048), 0)));
}

#[test]
fn short_keys_are_warned_of_and_shorter_ones_refused() {
    let sound = read(&format!("v=DKIM1; p={RSA_1024}")).unwrap();
    assert_eq!(sound.key, Key::Rsa(1024));
    assert!(sound.warnings[0].contains("2048"));
    assert!(why(&format!("v=DKIM1; p={RSA_768}")).contains("768 bits"));
    assert!(read(&format!("t=y:s; p={RSA_2048}")).unwrap().warnings[0].contains("t=y"));
}

#[test]
fn what_receivers_cannot_use_says_why() {
    for (text, words) in [
        ("v=DKIM1; p=".to_owned(), "revoked"),
        ("v=DKIM1; k=rsa".to_owned(), "missing"),
        (String::new(), "missing"),
        ("v=spf1 -all".to_owned(), "version"),
        (format!("v=DKIM2; p={RSA_2048}"), "version"),
        (format!("p={RSA_2048}; v=DKIM1"), "first"),
        (format!("k=rsa; k=rsa; p={RSA_2048}"), "twice"),
        (format!("k=dsa; p={RSA_2048}"), "k=dsa"),
        (format!("h=sha1; p={RSA_2048}"), "SHA-1"),
        (format!("s=chat; p={RSA_2048}"), "for mail"),
        ("p=%%%%".to_owned(), "Base64"),
        (format!("p={}", &RSA_2048[..200]), "some of it may be missing"),
        (format!("p={RSA_2048}AAAA"), "no RSA key"),
        (format!("p={ED25519}"), "no RSA key"),
        (format!("k=ed25519; p={RSA_2048}"), "it has to have 32"),
        ("k=ed25519; p=MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=".to_owned(), "first 12"),
        // An RSA modulus of 1024 bits with the exponent 1.
        (format!("p={}", exponent_one()), "exponent"),
    ] {
        assert!(why(&text).contains(words), "{text}: {}", why(&text));
    }
}

/// [`RSA_1024`] ends in the exponent 65537, `02 03 01 00 01`; with 1 in its place, padded to the same length.
fn exponent_one() -> String {
    assert!(RSA_1024.ends_with("AQAB"));
    format!("{}AAAB", &RSA_1024[..RSA_1024.len() - 4])
}

proptest! {
    #[test]
    fn no_text_is_too_strange(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _any = read(&text);
        let _any = read(&format!("v=DKIM1; p={}", String::from_utf8_lossy(&bytes)));
    }
}
