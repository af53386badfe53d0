//! One module for each place in the kernel, and what they share.

pub(crate) mod connect;
pub(crate) mod count;
pub(crate) mod flow_in;
pub(crate) mod flow_out;
pub(crate) mod guard;
pub(crate) mod maps;
pub(crate) mod outcome;
pub(crate) mod packet;
pub(crate) mod reply;
pub(crate) mod writer;

/// Go on with the next program of the chain.
pub(crate) const NEXT: i32 = -1;
/// Drop.
pub(crate) const SHOT: i32 = 2;
