//! Threads and logs.

use std::sync::{Arc, Mutex};
use std::thread::{Builder, ScopedJoinHandle};

use super::{Found, Lab};
use crate::base::lock;
use crate::device::Stream;
use crate::selftest::finding::Finding;

impl Lab {
    /// Runs `body` beside `helpers`, each on a thread of its own, and waits for all. When one of
    /// them fails, all gates are opened, so that none of the others waits for it.
    pub(in crate::selftest) fn beside<H>(
        &self,
        helpers: Vec<H>,
        body: impl FnOnce() -> Found,
    ) -> Found
    where
        H: FnOnce() -> Found + Send,
    {
        std::thread::scope(|scope| {
            let mut running = Vec::new();
            let mut refused = Ok(());
            for helper in helpers {
                match Builder::new().name("riverbed-check".into()).spawn_scoped(scope, helper) {
                    Ok(thread) => running.push(thread),
                    Err(error) => {
                        let text = format!("the system refuses one more thread: {error}");
                        refused = Err(Finding::new(text));
                    }
                }
            }
            let found = refused.and_then(|()| body());
            if found.is_err() {
                let _ = self.open_all();
            }
            running.into_iter().map(join).fold(found, Result::and)
        })
    }

    /// Gives other threads every chance to do what they must not do: a bounded number of round
    /// trips through a stream of their own.
    pub(in crate::selftest) fn give_others_a_chance(&self) -> Found {
        let own = self.stream()?;
        for _ in 0..50 {
            own.launch_host(Box::new(std::thread::yield_now))?;
            self.sync(&own)?;
        }
        Ok(())
    }
}

fn join(thread: ScopedJoinHandle<'_, Found>) -> Found {
    thread.join().unwrap_or_else(|_| Err(Finding::new("panicked in a thread of the check")))
}

/// A log that stream callbacks and threads write to.
#[derive(Debug, Clone, Default)]
pub(in crate::selftest) struct Log(Arc<Mutex<Vec<&'static str>>>);

impl Log {
    pub(in crate::selftest) fn push(&self, word: &'static str) {
        lock(&self.0).push(word);
    }

    pub(in crate::selftest) fn words(&self) -> Vec<&'static str> {
        lock(&self.0).clone()
    }

    /// Enqueues the writing of `word` on `stream`.
    pub(in crate::selftest) fn push_on(&self, stream: &Stream, word: &'static str) -> Found {
        let log = self.clone();
        Ok(stream.launch_host(Box::new(move || log.push(word)))?)
    }
}
