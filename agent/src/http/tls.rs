//! Whom TLS trusts.
//!
//! Owns: the certificates of authorities, read from where distributions keep them or from the operator's own file. Must not:
//! switch any check off: there is no such thing as an unchecked connection here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Debian and its kin, Red Hat and its kin, Alpine.
const PLACES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Nobody can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// There is no such file.
    #[error("there are no certificates to trust in {}: install ca-certificates", PLACES.join(", "))]
    Nowhere,
    /// None of it is a certificate.
    #[error("{path} holds no certificate that can be trusted")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The library refuses.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// Trusts what is in this file, or else the host's certificates.
///
/// # Errors
/// [`TrustError`]
pub(super) fn trusting(ca: Option<&Path>) -> Result<Arc<ClientConfig>, TrustError> {
    let found = || PLACES.iter().map(Path::new).find(|path| path.is_file());
    let path = ca.or_else(found).ok_or(TrustError::Nowhere)?;
    let mut roots = RootCertStore::empty();
    if let Ok(certificates) = CertificateDer::pem_file_iter(path) {
        // One that cannot be read trusts nobody more.
        roots.add_parsable_certificates(certificates.flatten());
    }
    if roots.is_empty() {
        return Err(TrustError::Empty { path: path.to_owned() });
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
