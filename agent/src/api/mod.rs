//! gRPC `mailsteer.v1` over a Unix socket.
//!
//! Owns: the wire format and its conversion to the model. Must not: decide anything.

mod client;
mod convert;
mod explained;
#[doc(hidden)]
pub mod fuzzing;
mod headline;
mod peer;
#[cfg(test)]
mod roundtrip;
mod server;
mod socket;
pub mod view;

pub use client::{Client, ConnectError};
pub use convert::Malformed;
pub use explained::explained;
pub use headline::headline;
pub use peer::Access;
pub use server::{Control, ControlError, Door, STEERING, Tail, ViewStream, serve};
pub use socket::{Listen, ServeError, Socket};

/// The generated code.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("mailsteer.v1");

    /// The definition itself, for reflection.
    pub(super) const DESCRIPTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mailsteer.v1.bin"));
}
