//! What the operator had done, or asks to see before it is: plan, reload, a word, the teardown.
//!
//! Owns: the shape of the answers. Must not: carry anything out.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One step of a plan.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlanRow {
    /// In a sentence.
    pub text: String,
    /// As data.
    pub action: serde_json::Value,
}

/// What a reload did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReloadReport {
    /// The file that was read.
    pub file: String,
    /// It differs from what was in force.
    pub changed: bool,
    /// Warnings about it, as text.
    pub warnings: Vec<String>,
}

/// What an operator's word did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// In a sentence.
    pub text: String,
    /// It changed something; asking twice does not.
    pub changed: bool,
}

/// What became of a message to one recipient, as somebody reports it who knows: an MTA's hook, a feedback loop, a script.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutcomeReport {
    /// When the receiver said it; now where it is left out.
    #[serde(default)]
    pub time: Option<Timestamp>,
    /// The receiver's address.
    pub destination: IpAddr,
    /// The name of the receiver's mail server by which the MTA called it, as the MX record has it. It is looked up before it is
    /// believed.
    #[serde(default)]
    pub host: Option<String>,
    /// The source by name or address; without it the connection is found by process, port, receiver and time.
    #[serde(default)]
    pub source: Option<String>,
    /// The stream; needed with a source that several streams use.
    #[serde(default)]
    pub stream: Option<String>,
    /// The process that had the connection.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Another process may have opened it: it was used before.
    #[serde(default)]
    pub handed: bool,
    /// When the MTA said that it would connect.
    #[serde(default)]
    pub connecting: Option<Timestamp>,
    /// The connection's port on this host.
    #[serde(default)]
    pub local_port: Option<u16>,
    /// What the receiver said: code and text. Empty with a complaint.
    #[serde(default)]
    pub reply: String,
    /// The recipient complained of a message that was delivered.
    #[serde(default)]
    pub complaint: bool,
}

/// What became of reports.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OutcomesTaken {
    /// Counted for a source.
    pub joined: u64,
    /// Several connections fit that left differently: counted for nobody.
    pub ambiguous: u64,
    /// No connection fits: not steered, or too long ago.
    pub unknown: u64,
    /// What was wrong with others, in sentences.
    pub refused: Vec<String>,
    /// For each report, in order, the source that it was counted for; empty: for none.
    pub sources: Vec<String>,
}

/// What was taken away, and what could not be.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TeardownReport {
    /// What was removed.
    pub removed: Vec<String>,
    /// What is left, and why.
    pub left: Vec<String>,
}
