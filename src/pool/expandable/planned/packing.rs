//! A packing on a thread of its own.

use std::sync::{Arc, Condvar, Mutex};

use crate::base::{lock, wait};
use crate::pack::Watch;
use crate::policy::planned::{Seen, Table, lay_out};

/// A packing under way. Dropping it ends it soon; nobody waits for that.
#[derive(Debug)]
pub(super) struct Packing {
    desk: Arc<Desk>,
    watch: Arc<Watch>,
}

/// What came of it.
#[derive(Debug, Default)]
enum Outcome {
    #[default]
    Open,
    /// A table, or none for what cannot be packed.
    There(Option<Table>),
    Taken,
}

/// Where the outcome is put.
#[derive(Debug, Default)]
pub(super) struct Desk {
    outcome: Mutex<Outcome>,
    done: Condvar,
}

impl Packing {
    /// Begins to pack one iteration, by arena; `None` if no thread can be had.
    pub(super) fn begin(streams: Vec<Vec<Seen>>) -> Option<Self> {
        let (desk, watch) = (Arc::new(Desk::default()), Arc::new(Watch::new()));
        let (own_desk, own_watch) = (Arc::clone(&desk), Arc::clone(&watch));
        let work = move || {
            let outcome = lay_out(&streams, &own_watch);
            if let Err(error) = &outcome {
                tracing::warn!(%error, "an iteration cannot be packed");
            }
            *lock(&own_desk.outcome) = Outcome::There(outcome.ok());
            own_desk.done.notify_all();
        };
        let thread = std::thread::Builder::new().name("riverbed-packing".into()).spawn(work);
        match thread {
            Ok(_) => Some(Self { desk, watch }),
            Err(error) => {
                tracing::warn!(%error, "no thread to pack an iteration on: it is not planned");
                None
            }
        }
    }

    /// Takes the outcome, if there is one by now: none for what cannot be packed.
    pub(super) fn outcome(&self) -> Option<Option<Table>> {
        let mut outcome = lock(&self.desk.outcome);
        if matches!(*outcome, Outcome::Open) {
            return None;
        }
        match std::mem::replace(&mut *outcome, Outcome::Taken) {
            Outcome::There(table) => Some(table),
            Outcome::Open | Outcome::Taken => Some(None),
        }
    }

    /// To wait by without holding the packing itself.
    pub(super) fn desk(&self) -> Arc<Desk> {
        Arc::clone(&self.desk)
    }
}

impl Drop for Packing {
    fn drop(&mut self) {
        self.watch.cancel();
    }
}

impl Desk {
    /// Blocks until the packing is done.
    pub(super) fn wait(&self) {
        let mut outcome = lock(&self.outcome);
        while matches!(*outcome, Outcome::Open) {
            outcome = wait(&self.done, outcome);
        }
    }
}
