//! Reader threads: they fill landings from files, so that nobody who computes or enqueues waits
//! for a disk.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::Sender;

use super::files::Files;
use super::landing::Landing;
use super::steps::Steps;
use crate::base::{Error, Result};
use crate::weights::ReadSpan;

/// Whether a load failed. Shared by everyone who waits for it.
#[derive(Debug, Default)]
pub struct LoadStatus(OnceLock<Error>, Steps);

impl LoadStatus {
    /// The failure, if there is one by now. A load without one may still be under way.
    ///
    /// # Errors
    /// Why the load failed: file and offset, or [`Error::Cancelled`].
    pub fn check(&self) -> Result<()> {
        self.0.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// How long the steps of the load have taken so far.
    #[must_use]
    pub fn steps(&self) -> &Steps {
        &self.1
    }

    pub(super) fn fail(&self, error: Error) {
        // The first failure is the one that is told.
        let _ = self.0.set(error);
    }
}

/// A part of a load: spans to read into a landing at one of its turns.
pub(super) struct Job {
    pub(super) landing: Arc<Landing>,
    pub(super) turn: u64,
    /// Destinations are offsets into the landing.
    pub(super) spans: Vec<ReadSpan>,
    pub(super) status: Arc<LoadStatus>,
    /// Jobs of this turn that are not done; the last one opens the gate.
    pub(super) left: Arc<AtomicUsize>,
}

/// The threads and their queue.
#[derive(Debug)]
pub(super) struct Reader {
    jobs: Sender<Job>,
    cancelled: Arc<AtomicBool>,
}

impl Reader {
    pub(super) fn start(files: Files, threads: usize) -> Result<Self> {
        let (jobs, queue) = crossbeam_channel::unbounded::<Job>();
        let cancelled = Arc::new(AtomicBool::new(false));
        let files = Arc::new(files);
        for _ in 0..threads.max(1) {
            let (queue, files, cancelled) =
                (queue.clone(), Arc::clone(&files), Arc::clone(&cancelled));
            // Never joined: they end when the queue is dropped and empty.
            std::thread::Builder::new()
                .name("riverbed-reader".into())
                .spawn(move || queue.into_iter().for_each(|job| job.run(&files, &cancelled)))
                .map_err(|error| {
                    Error::invalid(
                        "reader threads",
                        threads,
                        format!("the system refuses: {error}"),
                    )
                })?;
        }
        Ok(Self { jobs, cancelled })
    }

    /// Queues a job. Never blocks. Jobs must be queued in the order of their turns.
    pub(super) fn push(&self, job: Job) {
        if let Err(refused) = self.jobs.send(job) {
            // No thread is left to read; let nobody wait for it.
            refused.into_inner().finish(Err(Error::Cancelled));
        }
    }

    /// Fails everything that is not read yet.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Job {
    fn run(self, files: &Files, cancelled: &AtomicBool) {
        let steps = self.status.steps();
        steps.time(&steps.window_ns, || self.landing.wait_for(self.turn));
        let read = |span: &ReadSpan| {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let start =
                self.landing.block.as_mut_ptr().wrapping_add(span.dst_offset_bytes as usize);
            // SAFETY: the loader cut the spans to lie in the block, and those of one turn do not
            // overlap. At this turn the memory is the readers' alone (see `landing`).
            let into = unsafe { std::slice::from_raw_parts_mut(start, span.len_bytes as usize) };
            Ok(files.read(span.file, span.file_offset_bytes, into)?)
        };
        let outcome = steps.time(&steps.disk_ns, || self.spans.iter().try_for_each(read));
        self.finish(outcome);
    }

    fn finish(&self, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.status.fail(error);
        }
        // Release: what this job read or failed is seen by whoever opens the gate.
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.landing.open(self.turn);
        }
    }
}
