//! Failures on request: the n-th call of a name fails once, with nothing done.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::calls::Call;
use crate::base::{DeviceError, lock};

/// Pending failures of one host or sim device.
#[derive(Debug, Default)]
pub struct Faults {
    /// Keeps the ordinary path at one relaxed load.
    armed: AtomicBool,
    pending: Mutex<Vec<Fault>>,
}

#[derive(Debug)]
struct Fault {
    call: Option<Call>,
    skip: u64,
    status: u32,
}

impl Faults {
    /// Lets the `nth` (from 1) matching call from now on fail once with `status`; `call` of
    /// `None` matches every call.
    pub fn fail_nth(&self, call: Option<Call>, nth: u64, status: u32) {
        let mut pending = lock(&self.pending);
        pending.push(Fault { call, skip: nth.saturating_sub(1), status });
        self.armed.store(true, Ordering::Relaxed);
    }

    /// Takes back every failure that has not struck; gives how many.
    pub fn clear(&self) -> usize {
        let mut pending = lock(&self.pending);
        self.armed.store(false, Ordering::Relaxed);
        pending.drain(..).count()
    }

    /// The status this call fails with, if it is its turn.
    pub(super) fn strike(&self, call: Call) -> Option<u32> {
        if !self.armed.load(Ordering::Relaxed) {
            return None;
        }
        let mut pending = lock(&self.pending);
        let mut struck = None;
        pending.retain_mut(|fault| {
            if fault.call.is_some_and(|wanted| wanted != call) {
                return true;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                return true;
            }
            struck.replace(fault.status).is_some()
        });
        struck
    }
}

/// The error of a call that failed with `status`.
pub(super) fn refusal(device: &str, call: Call, status: u32) -> DeviceError {
    DeviceError {
        device: device.into(),
        call: call.name(),
        status,
        text: status_text(status).into(),
    }
}

/// The status in words.
fn status_text(status: u32) -> &'static str {
    match status {
        DeviceError::INVALID_VALUE => "invalid value",
        DeviceError::OUT_OF_MEMORY => "out of memory",
        DeviceError::INVALID_HANDLE => "invalid resource handle",
        DeviceError::ALREADY_REGISTERED => "host memory is already registered",
        DeviceError::NOT_SUPPORTED => "not supported",
        DeviceError::UNKNOWN => "unknown error",
        _ => "injected failure",
    }
}
