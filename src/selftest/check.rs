//! A check: what it is called, what it needs of a device, and how it is run.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::finding::Finding;
use super::lab::{Found, Lab};
use crate::device::{Device, DeviceInfo};

/// How long nothing may move before a check is given up: far more than any step takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What a check asks of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Memory that holds bytes.
    Bytes,
    /// `reserve`, `create_page`, `map`.
    VirtualMemory,
    /// `create_pool`, `pool_alloc`.
    Pools,
    /// Pools that keep to a cap.
    PoolCaps,
    /// `current_pool`, `set_current_pool`.
    ProcessPool,
    /// A device that nobody else uses, so that its free memory is this process's doing and may
    /// all be taken.
    Alone,
    /// A build in which a panic unwinds.
    Unwinding,
}

impl Need {
    /// Why a device does not have it; `None` if it does.
    fn missing(self, info: &DeviceInfo) -> Option<&'static str> {
        let (has, why) = match self {
            Self::Bytes => (!info.simulated, "the device is simulated and holds no bytes"),
            Self::VirtualMemory => (info.virtual_memory, "the device has no virtual memory"),
            Self::Pools => (info.memory_pools, "the device has no stream-ordered pools"),
            Self::PoolCaps => (info.pool_caps, "pools of this device cannot be capped"),
            Self::ProcessPool => {
                (info.process_pool, "the device has no stream-ordered pools for the whole process")
            }
            Self::Alone => (
                info.simulated || info.host_accessible,
                "others may use the device, whose memory is not all this process's to take or count",
            ),
            Self::Unwinding => (cfg!(panic = "unwind"), "a panic ends this build"),
        };
        (!has).then_some(why)
    }
}

/// Something that must be true of every device that has what it needs.
#[derive(Clone, Copy)]
pub struct Check {
    group: &'static str,
    name: &'static str,
    needs: &'static [Need],
    run: fn(&Lab) -> Result<(), Finding>,
}

impl Check {
    pub(super) const fn new(
        group: &'static str,
        name: &'static str,
        needs: &'static [Need],
        run: fn(&Lab) -> Result<(), Finding>,
    ) -> Self {
        Self { group, name, needs, run }
    }

    /// What it is about (`streams`, `events`).
    #[must_use]
    pub fn group(&self) -> &'static str {
        self.group
    }

    /// What must be so, in one word with underscores.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs it. Blocks until the work it enqueued is over and all it took is given back; a
    /// device that stands still is given up after half a minute. Never panics.
    #[must_use]
    pub fn run(&self, device: &Device) -> Outcome {
        self.run_with(device, PATIENCE)
    }

    /// As [`run`](Self::run), with another patience.
    #[must_use]
    pub fn run_with(&self, device: &Device, patience: Duration) -> Outcome {
        if let Some(why) = self.needs.iter().find_map(|need| need.missing(device.info())) {
            return Outcome::Skipped(why.into());
        }
        match guarded(Lab::new(device, patience), self.run) {
            Ok(()) => Outcome::Passed,
            Err(finding) => Outcome::Failed(finding),
        }
    }
}

/// Runs `work` in a lab, and gives back what it took; a panic is a finding.
pub(super) fn guarded<T>(lab: Lab, work: impl FnOnce(&Lab) -> Found<T>) -> Found<T> {
    // What is checked may panic; the device is used by others after it.
    let found = catch_unwind(AssertUnwindSafe(|| work(&lab)));
    let found = found.unwrap_or_else(|panic| Err(Finding::new(words(panic.as_ref()))));
    let given_back = lab.finish();
    found.and_then(|found| given_back.map(|()| found))
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("without a word"))
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Check({self})")
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.group, self.name)
    }
}

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is so.
    Passed,
    /// The device lacks what the check needs; the text says what.
    Skipped(String),
    /// It is not so, or a call failed on the way.
    Failed(Finding),
}

/// The checks of one subject: functions of this file, each with what it needs.
macro_rules! checks {
    ($group:literal: $($name:ident [$($need:ident),*]),+ $(,)?) => {
        /// The checks of this subject.
        pub(in crate::selftest) const CHECKS: &[$crate::selftest::check::Check] = &[
            $($crate::selftest::check::Check::new(
                $group,
                stringify!($name),
                &[$($crate::selftest::check::Need::$need),*],
                $name,
            )),+
        ];
    };
}

pub(super) use checks;
