//! What is written down: calls made, the last one that failed, and what was done wrong.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::status::Status;

/// A call that was made wrongly.
#[derive(Debug, Clone)]
pub struct Misuse {
    pub call: &'static str,
    pub kind: &'static str,
    pub detail: String,
}

/// The book of one fake.
#[derive(Debug, Default)]
pub struct Log {
    calls: BTreeMap<&'static str, u64>,
    last_failed: Option<(&'static str, Status)>,
    misuses: Vec<Misuse>,
}

/// Of more, only the number is kept.
const MOST_MISUSES: usize = 1000;

impl Log {
    pub fn called(&mut self, call: &'static str) {
        *self.calls.entry(call).or_default() += 1;
    }

    pub fn failed(&mut self, call: &'static str, status: Status) {
        self.last_failed = Some((call, status));
    }

    pub fn misused(&mut self, misuse: Misuse) {
        if self.misuses.len() < MOST_MISUSES {
            self.misuses.push(misuse);
        }
    }

    pub fn report(&self, leaks: &BTreeMap<&'static str, u64>) -> Value {
        let misuses: Vec<Value> = self
            .misuses
            .iter()
            .map(
                |misuse| json!({"call": misuse.call, "kind": misuse.kind, "detail": misuse.detail}),
            )
            .collect();
        json!({
            "calls": self.calls,
            "calls_total": self.calls.values().sum::<u64>(),
            "last_failed": self.last_failed.map(|(call, status)| json!({"call": call, "status": status})),
            "misuses": misuses,
            "leaks": leaks,
        })
    }
}
