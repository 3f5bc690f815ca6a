//! The progress bar of a long replay, which is also where Ctrl-C is looked at.

use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use riverbed::replay::{Trace, Watch};

/// Shorter replays are over before a bar is read.
const LONG_OPS: u64 = 2_000_000;

pub(super) struct Progress<'a> {
    bar: ProgressBar,
    interrupted: &'a AtomicBool,
}

impl<'a> Progress<'a> {
    pub(super) fn new(trace: &Trace, ops: u64, interrupted: &'a AtomicBool) -> Self {
        let bar = if ops < LONG_OPS { ProgressBar::hidden() } else { ProgressBar::new(ops) };
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}%, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(trace.name().to_string());
        Self { bar, interrupted }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Progress<'_> {
    fn went_on(&self, ops: u64) -> bool {
        self.bar.inc(ops);
        !self.interrupted.load(Ordering::Relaxed)
    }
}
