//! The reaper: one thread that does what a `Drop` must not, such as freeing device memory,
//! which may block. Started at first use; jobs that are still queued when the process ends are
//! left to the operating system, so nothing is freed after a driver has shut down.

use std::sync::OnceLock;

use crossbeam_channel::Sender;

type Job = Box<dyn FnOnce() + Send>;

/// Hands `job` to the reaper thread. Never blocks. If the thread cannot be started the job is
/// dropped unrun, which leaks what it would have freed: the lesser evil inside a `Drop`.
pub(crate) fn reap(job: impl FnOnce() + Send + 'static) {
    static REAPER: OnceLock<Option<Sender<Job>>> = OnceLock::new();
    let reaper = REAPER.get_or_init(|| {
        let (sender, jobs) = crossbeam_channel::unbounded::<Job>();
        std::thread::Builder::new()
            .name("riverbed-reaper".into())
            .spawn(move || jobs.into_iter().for_each(|job| job()))
            .inspect_err(|error| tracing::error!(%error, "no reaper thread: memory will leak"))
            .ok()
            .map(|_| sender)
    });
    if let Some(reaper) = reaper {
        // It fails only if the thread died, and then there is nobody left to tell.
        let _ = reaper.send(Box::new(job));
    }
}
