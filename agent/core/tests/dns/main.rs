//! What the DNS says of sources and domains: SPF by the text of RFC 7208, DKIM keys, DMARC's tree walk, a good and a broken world.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

mod dkim;
mod dmarc;
mod spf;
mod watch;
mod world;
mod zone;
