//! A resolver as it is written.

use std::net::{IpAddr, SocketAddr};

use crate::config::problem::Problem;
use crate::config::read::At;

const DNS: u16 = 53;

/// An address, or an address and a port; what is neither is reported with this code.
pub(super) fn resolver(
    written: &At<String>,
    code: &'static str,
    problems: &mut Vec<Problem>,
) -> Option<SocketAddr> {
    let address = || written.value.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, DNS));
    let resolver = written.value.parse::<SocketAddr>().ok().or_else(address);
    if resolver.is_none() {
        problems.push(
            Problem::error(code, format!("`{}` is no resolver", written.value))
                .at(&written.span, "an address, or an address and a port")
                .help("Write \"127.0.0.1\", \"192.0.2.53:5353\" or \"[2001:db8::53]:53\"."),
        );
    }
    resolver
}
