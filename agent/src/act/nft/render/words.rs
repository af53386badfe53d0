//! The words of nftables that our rules are made of, as the `nftables` crate's types.
//!
//! Owns: one short function per construct, so that the rules read like rules. Must not: know what mailsteer does
//! with them.

use nftables::expr::{
    BinaryOperation, CT, CTDir, Expression, Fib, FibFlag, FibResult, Map, Meta, MetaKey, NamedExpression,
    Payload, PayloadField, Prefix, SetItem,
};
use nftables::stmt::{
    Counter, JumpTarget, Mangle, Match, NAT, NATFamily, Operator, Reject, RejectType, Statement,
};
use nftables::types::RejectCode;

use ipnet::IpNet;
use mailsteer_core::model::Family;

pub(super) type Expr = Expression<'static>;
pub(super) type Stmt = Statement<'static>;

pub(super) fn number(value: u32) -> Expr {
    Expression::Number(value)
}

pub(super) fn text(value: impl Into<String>) -> Expr {
    Expression::String(value.into().into())
}

pub(super) fn named(value: NamedExpression<'static>) -> Expr {
    Expression::Named(value)
}

pub(super) fn meta(key: MetaKey) -> Expr {
    named(NamedExpression::Meta(Meta { key }))
}

pub(super) fn mark() -> Expr {
    meta(MetaKey::Mark)
}

pub(super) fn ct(key: &'static str) -> Expr {
    named(NamedExpression::CT(CT { key: key.into(), family: None, dir: None::<CTDir> }))
}

pub(super) fn ct_mark() -> Expr {
    ct("mark")
}

pub(super) fn masked(value: Expr, mask: u32) -> Expr {
    Expression::BinaryOperation(Box::new(BinaryOperation::AND(value, number(mask))))
}

pub(super) fn header(protocol: &'static str, field: &'static str) -> Expr {
    named(NamedExpression::Payload(Payload::PayloadField(PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    })))
}

/// What a segment is: its flags without those that only say how to read it (PSH, URG, ECE, CWR).
pub(super) fn tcp_flags() -> Expr {
    let telling = ["fin", "syn", "rst", "ack"].map(text).to_vec();
    Expression::BinaryOperation(Box::new(BinaryOperation::AND(
        header("tcp", "flags"),
        Expression::List(telling),
    )))
}

/// The protocol's name as nftables spells it.
pub(super) const fn protocol(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

pub(super) fn any_of(values: impl IntoIterator<Item = Expr>) -> Expr {
    named(NamedExpression::Set(values.into_iter().map(SetItem::Element).collect()))
}

pub(super) fn network(net: IpNet) -> Expr {
    if net.prefix_len() == net.max_prefix_len() {
        return text(net.addr().to_string());
    }
    named(NamedExpression::Prefix(Prefix {
        addr: Box::new(text(net.network().to_string())),
        len: u32::from(net.prefix_len()),
    }))
}

pub(super) fn mapped(key: Expr, map: &str) -> Expr {
    named(NamedExpression::Map(Box::new(Map { key, data: text(format!("@{map}")) })))
}

fn compare(left: Expr, op: Operator, right: Expr) -> Stmt {
    Statement::Match(Match { left, right, op })
}

pub(super) fn is(left: Expr, right: Expr) -> Stmt {
    compare(left, Operator::EQ, right)
}

pub(super) fn is_not(left: Expr, right: Expr) -> Stmt {
    compare(left, Operator::NEQ, right)
}

pub(super) fn at_least(left: Expr, right: Expr) -> Stmt {
    compare(left, Operator::GEQ, right)
}

/// Any of one or more values, without a set where there is one.
pub(super) fn is_any(left: Expr, mut values: Vec<Expr>) -> Stmt {
    match values.pop() {
        Some(only) if values.is_empty() => is(left, only),
        last => is(left, any_of(values.into_iter().chain(last))),
    }
}

pub(super) fn of_family(family: Family) -> Stmt {
    is(
        meta(MetaKey::Nfproto),
        text(match family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        }),
    )
}

pub(super) fn destination_type() -> Expr {
    named(NamedExpression::Fib(Fib { result: FibResult::Type, flags: [FibFlag::Daddr].into() }))
}

pub(super) fn set(key: Expr, value: Expr) -> Stmt {
    Statement::Mangle(Mangle { key, value })
}

pub(super) fn count(counter: crate::nftnl::Counter) -> Stmt {
    Statement::Counter(Counter::Named(counter.to_string().into()))
}

pub(super) fn back() -> Stmt {
    Statement::Return(None)
}

pub(super) fn drop() -> Stmt {
    Statement::Drop(None)
}

pub(super) fn goto(chain: impl Into<String>) -> Stmt {
    Statement::Goto(JumpTarget { target: chain.into().into() })
}

/// Goes there and comes back.
pub(super) fn jump(chain: impl Into<String>) -> Stmt {
    Statement::Jump(JumpTarget { target: chain.into().into() })
}

/// Reads in the MTA's log as "no route to host", not as the receiver's doing.
pub(super) fn prohibit() -> Stmt {
    Statement::Reject(Some(Reject::new(Some(RejectType::ICMPX), Some(RejectCode::AdminProhibited))))
}

/// Ends a connection that is under way.
pub(super) fn reset() -> Stmt {
    Statement::Reject(Some(Reject::new(Some(RejectType::TCPReset), None)))
}

pub(super) fn snat(family: Family, address: Expr) -> Stmt {
    let family = match family {
        Family::V4 => NATFamily::IP,
        Family::V6 => NATFamily::IP6,
    };
    Statement::SNAT(Some(NAT { addr: Some(address), family: Some(family), port: None, flags: None }))
}
