//! Giving everything back, after whatever happened.
#![allow(unsafe_code)]

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Found, Held, Lab};
use crate::base::lock;
use crate::device::{DevicePtr, DeviceResult, Driver};
use crate::selftest::finding::{Finding, ensure};

/// How often a call that gives something back is tried.
const TRIES: u32 = 3;

/// Calls until they succeed, and remembers the first failure.
#[derive(Default)]
struct Insistence(Option<Finding>);

impl Insistence {
    fn on(&mut self, mut call: impl FnMut() -> DeviceResult<()>) -> bool {
        (0..TRIES).any(|_| match call() {
            Ok(()) => true,
            Err(error) => {
                self.0.get_or_insert_with(|| error.into());
                false
            }
        })
    }
}

impl Lab {
    /// Gives back all that is held.
    pub(in crate::selftest) fn finish(self) -> Found {
        // Before gates are opened for good: were they closed for too long?
        let verdict = self.watcher.verdict();
        let mut insist = Insistence::default();
        let held = std::mem::take(&mut *lock(&self.held));
        for _ in 0..TRIES {
            match self.open_all() {
                Ok(()) => break,
                Err(finding) => drop(insist.0.get_or_insert(finding)),
            }
        }
        let driver = self.driver();
        if run_dry(driver, &held, &mut insist) {
            give_back(driver, held, &mut insist);
        } else {
            // Work may be in flight: its memory must stay.
            std::mem::forget(held.own);
        }
        self.watcher.finish(|call| insist.on(call));
        verdict.and(insist.0.map_or(Ok(()), Err)).and(self.all_is_back())
    }

    /// Waits for what is given back in the background, where that can be seen.
    fn all_is_back(&self) -> Found {
        let Some(before) = self.before_bytes else { return Ok(()) };
        let later = self.later.load(Ordering::Relaxed);
        let deadline = Instant::now() + if later { self.patience } else { Duration::ZERO };
        loop {
            let free = self.free_bytes()?;
            if free >= before {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{} bytes did not come back", before - free);
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Waits for every stream there is or was.
fn run_dry(driver: &dyn Driver, held: &Held, insist: &mut Insistence) -> bool {
    let mut dry = true;
    for stream in &held.streams {
        dry &= insist.on(|| driver.synchronize_stream(stream.id()));
    }
    for end in &held.ends {
        let reached = (0..TRIES).any(|_| match end.synchronize() {
            Ok(()) => true,
            Err(error) => {
                insist.0.get_or_insert(error.into());
                false
            }
        });
        dry &= reached;
    }
    dry
}

/// Gives back what nothing touches any more.
fn give_back(driver: &dyn Driver, held: Held, insist: &mut Insistence) {
    let free = |ptr: DevicePtr, insist: &mut Insistence| {
        // SAFETY: all streams have run dry, and the check is over: nobody else frees it.
        insist.on(|| unsafe { driver.free(ptr) });
    };
    held.pooled.iter().for_each(|&ptr| free(ptr, insist));
    held.allocated.iter().for_each(|&ptr| free(ptr, insist));
    for (at, bytes) in held.mapped {
        // SAFETY: all streams have run dry.
        insist.on(|| unsafe { driver.unmap(at, bytes) });
    }
    for (page, _) in held.pages {
        // SAFETY: not destroyed yet, and nobody knows it any more.
        insist.on(|| unsafe { driver.destroy_page(page) });
    }
    for (at, bytes) in held.reserved {
        // SAFETY: exactly what `reserve` gave, with nothing mapped any more.
        insist.on(|| unsafe { driver.release(at, bytes) });
    }
    for start in held.pinned {
        // SAFETY: all streams have run dry.
        insist.on(|| unsafe { driver.free_pinned(start.start()) });
    }
    let mut ended = true;
    for start in held.registered {
        // SAFETY: all streams have run dry.
        ended &= insist.on(|| unsafe { driver.unregister(start.start()) });
    }
    if !ended {
        // Memory that is still pinned must stay where it is.
        std::mem::forget(held.own);
    }
    let pools = !(held.pools.is_empty() && held.pooled.is_empty());
    for pool in held.pools {
        // SAFETY: not destroyed yet, and nobody knows it any more.
        insist.on(|| unsafe { driver.destroy_pool(pool) });
    }
    if pools {
        // A pool that is gone gives its memory back at a synchronize.
        for stream in &held.streams {
            insist.on(|| driver.synchronize_stream(stream.id()));
        }
    }
}
