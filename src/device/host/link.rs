//! The link between host and device: copy engines that move bytes at a set rate.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::base::lock;

/// One direction of the link.
#[derive(Debug)]
pub(super) struct Link {
    bytes_per_second: Option<u64>,
    /// When each copy engine is free, in device time.
    engines: Vec<Mutex<Instant>>,
}

impl Link {
    pub(super) fn new(bytes_per_second: Option<u64>, engines: u32) -> Self {
        let free_at = Instant::now();
        Self {
            bytes_per_second,
            engines: (0..engines.max(1)).map(|_| Mutex::new(free_at)).collect(),
        }
    }

    /// Runs `copy` of `bytes` bytes on an engine, not before `ready`, and takes as long as the
    /// link would. Gives the device time at its end; the wall clock is past that on return.
    pub(super) fn carry(&self, bytes: u64, ready: Instant, copy: impl FnOnce()) -> Instant {
        let mut free_at = self
            .engines
            .iter()
            .find_map(|engine| engine.try_lock().ok())
            .unwrap_or_else(|| lock(&self.engines[0]));
        let begun = ready.max(*free_at);
        let started = Instant::now();
        copy();
        let taken = started.elapsed();
        let due = self
            .bytes_per_second
            .map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / rate as f64));
        let end = begun + taken.max(due);
        *free_at = end;
        sleep_until(end);
        end
    }
}

/// Sleeps until `end`; returns at once if it is past.
pub(super) fn sleep_until(end: Instant) {
    let now = Instant::now();
    if end > now {
        std::thread::sleep(end - now);
    }
}
