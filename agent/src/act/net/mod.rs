//! Carries out the plan's changes of addresses, routes and rules.
//!
//! Owns: [`Net`]; every change is idempotent, bears our protocol mark and is read back. Must not: remove or change
//! anything that does not bear the mark: an address that stood before us is adopted, never owned.

mod address;
mod announce;
mod device;
mod sysctl;

use mailsteer_core::model::Family;
use mailsteer_core::plan::{AddressAt, RouteAt, RuleSpec};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::RuleAttribute;
use rtnetlink::Handle;

use announce::Announcer;
pub use sysctl::{restore_src_valid_mark, set_src_valid_mark, src_valid_mark};

use crate::netlink::{
    self, NetError, PROTOCOL, change, message_protocol, route_at, route_message, rule_message, rule_spec,
};

/// What became of an address that should be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Added {
    /// It was added.
    New,
    /// It stood already, and is ours.
    Present,
    /// It stood already, and is another's: used, never touched.
    Adopted,
}

/// What became of an address that should be removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removed {
    /// It was removed.
    Gone,
    /// There was none.
    Absent,
    /// It is another's and stays.
    Foreign,
}

/// What teardown removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TornDown {
    /// Addresses.
    pub addresses: usize,
    /// Routes.
    pub routes: usize,
    /// Rules.
    pub rules: usize,
}

/// The interpreter of the plan's rtnetlink actions.
#[derive(Debug)]
pub struct Net {
    handle: Handle,
    announcements: Announcer,
    /// This kernel was seen to keep our protocol mark on addresses.
    keeps_marks: bool,
}

impl Net {
    /// Acts through this connection.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        Self { handle, announcements: Announcer::default(), keeps_marks: false }
    }

    /// `Action::AddAddress`: adds it and announces it, without waiting for duplicate address detection; the
    /// announcement does.
    ///
    /// # Errors
    /// When the kernel refuses, or it does not stay.
    pub async fn add_address(&mut self, at: &AddressAt) -> Result<Added, NetError> {
        let device = device::named(&self.handle, &at.interface).await?;
        let added = address::add(&self.handle, &device, at, &mut self.keeps_marks).await?;
        if added == Added::New {
            self.announcements.announce(&device, at.address)?;
        }
        Ok(added)
    }

    /// `Action::RemoveAddress`: removes it if it is ours.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_address(&mut self, at: &AddressAt) -> Result<Removed, NetError> {
        match device::named(&self.handle, &at.interface).await {
            Ok(device) => address::remove(&self.handle, &device, at).await,
            // It took its addresses along.
            Err(NetError::NoInterface { .. }) => Ok(Removed::Absent),
            Err(error) => Err(error),
        }
    }

    /// `Action::AddRoute`: adds it, or replaces the one with the same destination and metric.
    ///
    /// # Errors
    /// When the kernel refuses, or it does not stay.
    pub async fn add_route(&mut self, route: &RouteAt) -> Result<(), NetError> {
        let what = format!("adding the route to {} in table {}", route.destination, table(route));
        let message = RouteNetlinkMessage::NewRoute(route_message(route));
        change(&self.handle, &what, message, NLM_F_CREATE | NLM_F_REPLACE).await?;
        if self.has_route(route).await? { Ok(()) } else { Err(NetError::NotKept { what }) }
    }

    /// `Action::RemoveRoute`: removes it if it stands.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_route(&mut self, route: &RouteAt) -> Result<(), NetError> {
        let what = format!("removing the route to {} in table {}", route.destination, table(route));
        let message = RouteNetlinkMessage::DelRoute(route_message(route));
        gone(change(&self.handle, &what, message, 0).await)?;
        if self.has_route(route).await? { Err(NetError::NotKept { what }) } else { Ok(()) }
    }

    /// `Action::AddRule`: adds it if it does not stand.
    ///
    /// # Errors
    /// When the kernel refuses, or it does not stay.
    pub async fn add_rule(&mut self, rule: &RuleSpec) -> Result<(), NetError> {
        if self.has_rule(rule).await? {
            return Ok(());
        }
        let what = format!("adding the rule {rule:?}");
        let message = RouteNetlinkMessage::NewRule(rule_message(rule));
        match change(&self.handle, &what, message, NLM_F_CREATE | NLM_F_EXCL).await {
            Err(error) if error.errno() == Some(libc::EEXIST) => {}
            other => other?,
        }
        if self.has_rule(rule).await? { Ok(()) } else { Err(NetError::NotKept { what }) }
    }

    /// `Action::RemoveRule`: removes it if it stands.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_rule(&mut self, rule: &RuleSpec) -> Result<(), NetError> {
        let what = format!("removing the rule {rule:?}");
        gone(change(&self.handle, &what, RouteNetlinkMessage::DelRule(rule_message(rule)), 0).await)?;
        if self.has_rule(rule).await? { Err(NetError::NotKept { what }) } else { Ok(()) }
    }

    /// Removes every rule, route and address that bears our mark, in the order in which no packet is sent to a
    /// table that is empty.
    ///
    /// # Errors
    /// When the kernel refuses; what was removed before stays removed.
    pub async fn teardown(&mut self) -> Result<TornDown, NetError> {
        self.announcements.end();
        let mut done = TornDown::default();
        for family in Family::BOTH {
            let ours = RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL));
            for rule in netlink::rules(&self.handle, family).await? {
                if rule.attributes.contains(&ours) {
                    let message = RouteNetlinkMessage::DelRule(rule);
                    gone(change(&self.handle, "removing a rule", message, 0).await)?;
                    done.rules += 1;
                }
            }
            for route in netlink::routes(&self.handle, family, true).await?.iter().filter_map(route_at) {
                self.remove_route(&route).await?;
                done.routes += 1;
            }
        }
        for message in netlink::addresses(&self.handle, None).await? {
            if message_protocol(&message) == Some(PROTOCOL) {
                let message = RouteNetlinkMessage::DelAddress(message);
                gone(change(&self.handle, "removing an address", message, 0).await)?;
                done.addresses += 1;
            }
        }
        Ok(done)
    }

    async fn has_route(&self, route: &RouteAt) -> Result<bool, NetError> {
        let found = netlink::routes(&self.handle, Family::of(route.destination.addr()), true).await?;
        Ok(found.iter().filter_map(route_at).any(|one| one == *route))
    }

    async fn has_rule(&self, rule: &RuleSpec) -> Result<bool, NetError> {
        let (RuleSpec::Uplink { family, .. }
        | RuleSpec::Replies { family, .. }
        | RuleSpec::Fallback { family, .. }) = rule;
        let found = netlink::rules(&self.handle, *family).await?;
        Ok(found.iter().filter_map(rule_spec).any(|one| one == *rule))
    }
}

const fn table(route: &RouteAt) -> u32 {
    netlink::uplink_table(route.uplink)
}

/// What was not there is as good as removed.
fn gone(result: Result<(), NetError>) -> Result<(), NetError> {
    match result {
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL)) => {
            Ok(())
        }
        other => other,
    }
}
