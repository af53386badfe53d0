//! gRPC `mailsteer.v1` over a Unix socket.
//!
//! Owns: the wire format and its conversion to the model. Must not: decide anything.

mod client;
mod convert;
mod explained;
mod headline;
#[cfg(test)]
mod roundtrip;
mod server;
pub mod view;

pub use client::{Client, ConnectError};
pub use convert::Malformed;
pub use explained::explained;
pub use headline::headline;
pub use server::{Control, ControlError, ServeError, Tail, ViewStream, serve};

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
}
