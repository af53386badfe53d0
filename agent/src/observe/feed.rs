//! Feeds, fetched.
//!
//! Owns: one request, with the key where it belongs. Must not: keep anything, read what came, or show the key: no error here
//! holds a URL.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use hyper::Method;
use mailsteer_core::config::Feed;

use crate::http::{Call, Client, HttpError, Secretive};
use crate::secret::{Secret, SecretError};

/// Bytes of an answer at most: SNDS has 200 for each address and day.
const MOST: usize = 4 * 1024 * 1024;

/// Why there is nothing to read. It says nothing of any address.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// No key.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Another answer than 200.
    #[error("the feed answered {0}{why}", why = why(*.0))]
    Status(u16),
    /// No text.
    #[error("the feed's answer is no text")]
    NoText,
}

const fn why(status: u16) -> &'static str {
    match status {
        401 | 403 => ": is the key right?",
        429 => ": it is asked too often",
        300..=399 => ": it has moved; write where to",
        _ => "",
    }
}

/// Fetches what a feed publishes.
#[derive(Debug)]
pub struct Fetcher {
    client: Client,
    key: Option<(String, Option<String>)>,
    patience: Duration,
}

impl Fetcher {
    /// Sends and reads nothing yet.
    #[must_use]
    pub fn new(feed: &Feed) -> Self {
        let patience = Duration::try_from(feed.timeout).unwrap_or(Duration::from_secs(30));
        Self { client: Client::new(feed.ca.as_deref()), key: feed.key.clone(), patience }
    }

    /// What is there now; `None`: nothing is known of that (404).
    ///
    /// # Errors
    /// [`FetchError`]
    pub async fn fetch(&self, url: &str, address: Option<IpAddr>) -> Result<Option<String>, FetchError> {
        // Read each time, so that a new one needs no reload.
        let key = self.key.as_ref().map(|(file, _)| Secret::read(file)).transpose()?;
        let url = filled(url, address, key.as_ref());
        let header = self.key.as_ref().and_then(|(_, header)| header.clone());
        let call = Call {
            method: Method::GET,
            url: Secretive(url),
            secret: header.zip(key),
            body: None,
            patience: self.patience,
            most: MOST,
        };
        let answer = self.client.send(call).await?;
        match answer.status {
            200 => String::from_utf8(answer.body).map(Some).map_err(|_invalid| FetchError::NoText),
            204 | 404 => Ok(None),
            status => Err(FetchError::Status(status)),
        }
    }
}

/// The template with what belongs into it, encoded.
fn filled(url: &str, address: Option<IpAddr>, key: Option<&Secret>) -> String {
    let mut filled = url.to_owned();
    if let Some(address) = address {
        filled = filled.replace("{address}", &encoded(&address.to_string()));
    }
    // Last, so that a key that looks like a place is not taken for one.
    key.map_or(filled.clone(), |key| filled.replace("{key}", &encoded(key.expose())))
}

/// By RFC 3986: what is not unreserved.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _infallible = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_with_what_is_encoded() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "a/b {address}&c").unwrap();
        let key = Secret::read(file.to_str().unwrap()).unwrap();
        let six = "2001:db8::1".parse().unwrap();
        let url = filled("https://h.example/{address}?k={key}", Some(six), Some(&key));
        assert_eq!(url, "https://h.example/2001%3Adb8%3A%3A1?k=a%2Fb%20%7Baddress%7D%26c");
    }
}
