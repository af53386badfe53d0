//! Secrets: keys of feeds, what a hook's header says.
//!
//! Owns: reading one, out of a file or a systemd credential, and that it does not show: a [`Secret`] cannot be printed. Must not:
//! send it anywhere.

use std::fmt;
use std::path::{Path, PathBuf};

/// Longest secret: what a header holds.
const LONGEST: usize = 4_096;

/// What must not be seen. Neither `Debug` nor `Display` shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Why a secret cannot be had. It names the file, and not what is in it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// A name without a slash is a systemd credential's, and there are none.
    #[error(
        "there is no credential `{name}`: add LoadCredential={name}:FILE to mailsteer.service, or write the path of a file"
    )]
    NoCredentials {
        /// Its name.
        name: String,
    },
    /// The file cannot be read.
    #[error("cannot read the secret {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing in it, too much, or more than a line of printable characters.
    #[error("{path} holds no secret: one line of printable characters, {LONGEST} at most")]
    Unfit {
        /// The file.
        path: PathBuf,
    },
}

impl Secret {
    /// Reads it: a path, or the name of a systemd credential.
    ///
    /// # Errors
    /// [`SecretError`]
    pub fn read(named: &str) -> Result<Self, SecretError> {
        Self::read_in(named, std::env::var_os("CREDENTIALS_DIRECTORY").as_deref().map(Path::new))
    }

    fn read_in(named: &str, credentials: Option<&Path>) -> Result<Self, SecretError> {
        let path = if named.contains('/') {
            PathBuf::from(named)
        } else {
            let none = || SecretError::NoCredentials { name: named.to_owned() };
            credentials.ok_or_else(none)?.join(named)
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(SecretError::Unreadable { path, source }),
        };
        let line = text.trim();
        let printable = line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if line.is_empty() || line.len() > LONGEST || !printable {
            return Err(SecretError::Unfit { path });
        }
        Ok(Self(line.to_owned()))
    }

    /// The secret itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_from_a_file_or_a_credential_and_does_not_show() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "  s3cret-key\n").unwrap();
        let by_path = Secret::read_in(file.to_str().unwrap(), None).unwrap();
        let by_name = Secret::read_in("key", Some(dir.path())).unwrap();
        assert_eq!((by_path.expose(), &by_path), ("s3cret-key", &by_name));
        assert_eq!(format!("{by_path:?} {:#?}", Some(&by_name)).matches("s3cret").count(), 0);
        assert!(matches!(Secret::read_in("key", None), Err(SecretError::NoCredentials { .. })));
        assert!(matches!(Secret::read_in("none", Some(dir.path())), Err(SecretError::Unreadable { .. })));
        for bad in ["", " \n", "a\nb", "\u{1b}[1m", "\u{fc}ber"] {
            std::fs::write(&file, bad).unwrap();
            let error = Secret::read_in("key", Some(dir.path())).unwrap_err();
            assert!(matches!(error, SecretError::Unfit { .. }), "{bad:?}: {error}");
        }
    }
}
