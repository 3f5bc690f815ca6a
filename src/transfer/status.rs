//! Whether a load failed, and what took its time.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use super::steps::Steps;
use crate::base::{Error, Result};

/// Whether a load failed, and what took its time. Shared by everyone who waits for it.
#[derive(Debug, Default)]
pub struct LoadStatus {
    failure: OnceLock<Error>,
    steps: Steps,
}

impl LoadStatus {
    /// The failure, if there is one by now. A load without one may still be under way.
    ///
    /// # Errors
    /// Why the load failed: file and offset, or [`Error::Cancelled`].
    pub fn check(&self) -> Result<()> {
        self.failure.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// How long the steps of the load have taken so far.
    #[must_use]
    pub fn steps(&self) -> &Steps {
        &self.steps
    }

    pub(super) fn fail(&self, error: Error) {
        // The first failure is the one that is told.
        let _ = self.failure.set(error);
    }
}

/// Statuses that are used again when nobody looks at them any more.
#[derive(Debug, Default)]
pub(super) struct Statuses(VecDeque<Arc<LoadStatus>>);

impl Statuses {
    /// Makes sure so many loads can be looked at without another status being made.
    pub(super) fn reserve(&mut self, loads: usize) {
        let more = loads.saturating_sub(self.0.len());
        self.0.extend((0..more).map(|_| Arc::default()));
    }

    /// A status of a new load.
    pub(super) fn take(&mut self) -> Arc<LoadStatus> {
        for _ in 0..self.0.len() {
            let Some(mut status) = self.0.pop_front() else { break };
            let unused = Arc::get_mut(&mut status).map(std::mem::take).is_some();
            self.0.push_back(Arc::clone(&status));
            if unused {
                return status;
            }
        }
        let status = Arc::<LoadStatus>::default();
        self.0.push_back(Arc::clone(&status));
        status
    }
}
