//! Calls that fail although nothing is wrong with them.

use crate::status::Status;

/// What is still to happen.
#[derive(Debug, Default)]
pub struct Faults {
    pending: Vec<Fault>,
    /// What every call answers: the device is gone.
    lost: Option<Status>,
}

#[derive(Debug)]
struct Fault {
    /// `None` for any call.
    call: Option<String>,
    /// How many calls come before it.
    skip: u64,
    status: Status,
    loses_device: bool,
}

impl Faults {
    /// Takes `fail=CALL@N/STATUS`, `lost=CALL@N/STATUS` or `heal=now`; CALL may be `any`, N
    /// counts from now on.
    pub fn take(&mut self, key: &str, value: &str) -> bool {
        let loses_device = match key {
            "fail" => false,
            "lost" => true,
            "heal" => {
                *self = Self::default();
                return true;
            }
            _ => return false,
        };
        let parsed = value.split_once('@').and_then(|(call, rest)| {
            let (nth, status) = rest.split_once('/')?;
            let skip = nth.parse::<u64>().ok()?.checked_sub(1)?;
            Some(Fault {
                call: (call != "any").then(|| call.to_string()),
                skip,
                status: status.parse().ok()?,
                loses_device,
            })
        });
        parsed.map(|fault| self.pending.push(fault)).is_some()
    }

    pub fn lose(&mut self, status: Status) {
        self.lost.get_or_insert(status);
    }

    pub fn lost(&self) -> Option<Status> {
        self.lost
    }

    /// Counts a call; what it must fail with, if it is its turn.
    pub fn strike(&mut self, call: &str) -> Option<Status> {
        let mut struck = None;
        let mut lost = None;
        self.pending.retain_mut(|fault| {
            if fault.call.as_deref().is_some_and(|wanted| wanted != call) {
                return true;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                return true;
            }
            struck.get_or_insert(fault.status);
            if fault.loses_device {
                lost = Some(fault.status);
            }
            false
        });
        if let Some(status) = lost {
            self.lose(status);
        }
        struck
    }
}
