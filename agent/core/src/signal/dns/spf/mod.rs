//! SPF (RFC 7208): does a domain let an address send for it?
//!
//! Owns: the record's grammar, macros, and `check_host()` with its limits. Must not: look anything up, or say what follows.
//! `exp=` is read and never followed: nobody here wants a receiver's explanation.

mod evaluate;
mod macros;
mod record;

pub use evaluate::{Asked, Ruling, Verdict, check_host};
pub use macros::Spec;
pub use record::{Cidr, Directive, Mechanism, Qualifier, Record};
