//! What the operator had done, or asks to see before it is: plan, reload, a word, the teardown.
//!
//! Owns: the shape of the answers. Must not: carry anything out.

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

/// What was taken away, and what could not be.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TeardownReport {
    /// What was removed.
    pub removed: Vec<String>,
    /// What is left, and why.
    pub left: Vec<String>,
}
