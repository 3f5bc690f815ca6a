//! The thread of `pinned_use_background_threads`: it asks events, so that callers need not, and
//! keeps the pool in order.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::shared::Shared;
use crate::base::lock;

/// How often events are asked while there are any: PyTorch's interval.
const ASK_EVERY: Duration = Duration::from_micros(100);
/// How often free memory is looked after.
const MAINTAIN_EVERY: Duration = Duration::from_secs(1);

/// The way to a thread that ends with its pool.
#[derive(Debug)]
pub(super) struct Background {
    bell: Sender<()>,
    called: Receiver<()>,
}

impl Background {
    pub(super) fn new() -> Self {
        let (bell, called) = bounded(1);
        Self { bell, called }
    }

    /// Starts the thread; without it nothing is asked before the pool is out of memory.
    pub(super) fn start(&self, shared: &Arc<Shared>) {
        let (shared, called) = (Arc::downgrade(shared), self.called.clone());
        let started = std::thread::Builder::new()
            .name("riverbed-pinned".into())
            .spawn(move || work(&shared, &called));
        if let Err(error) = started {
            tracing::warn!(%error, "no thread for pinned_use_background_threads");
        }
    }

    /// Says that there is something to wait for. Never blocks.
    pub(super) fn wake(&self) {
        // Full: it was called already.
        let _ = self.bell.try_send(());
    }
}

fn work(pool: &Weak<Shared>, called: &Receiver<()>) {
    let mut maintained = Instant::now();
    let mut is_quiet = true;
    loop {
        if is_quiet {
            // Its own receiver keeps the channel open, so the pool's end is seen at the next look.
            match called.recv_timeout(MAINTAIN_EVERY) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        } else {
            std::thread::sleep(ASK_EVERY);
        }
        let Some(shared) = pool.upgrade() else { return };
        let mut core = lock(&shared.core);
        shared.take_mail(&mut core);
        shared.poll(&mut core);
        drop(core);
        is_quiet = shared.is_quiet();
        if maintained.elapsed() >= MAINTAIN_EVERY {
            shared.maintain();
            maintained = Instant::now();
        }
    }
}
