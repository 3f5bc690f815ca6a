//! The reaper: one thread that does what a `Drop` must not, such as freeing device memory,
//! which may block. Started at first use; jobs that are still queued when the process ends are
//! left to the operating system, so nothing is freed after a driver has shut down.

use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::handles::Event;
use crate::base::{Result, lock};

/// How often events of waiting jobs are asked, while there are such jobs.
const ASK_EVERY: Duration = Duration::from_millis(1);

/// How often a driver may refuse to answer for a job's events before its device counts as lost.
const REFUSALS: u32 = 100;

/// Jobs handed over whose work, and whatever it held, is not gone yet.
static OPEN: Open = Open { count: Mutex::new(0), none: Condvar::new() };

/// Something to do once nothing on a device stands in its way.
struct Job {
    after: Vec<Arc<Event>>,
    refusals: u32,
    run: Box<dyn FnOnce(Result<()>) + Send>,
    /// Last, so that it goes after what the job holds.
    open: GivingUp,
}

/// Waits until what was given up so far has been given back to its driver, and what that gave up
/// in turn; at most for `limit`. False when the time was up first: work in flight, or a gate,
/// still stands in the way. For the end of a program, so that its devices are let go of in good
/// order; nothing needs it in between. Blocks.
///
/// ```
/// use std::time::Duration;
/// let device = riverbed::device::Device::open("host:vram=64MiB")?;
/// drop(device);
/// assert!(riverbed::device::settle(Duration::from_secs(5)));
/// # Ok::<(), riverbed::Error>(())
/// ```
#[must_use]
pub fn settle(limit: Duration) -> bool {
    let end = Instant::now() + limit;
    let mut count = lock(&OPEN.count);
    while *count > 0 {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let woken = OPEN.none.wait_timeout(count, left);
        count = woken.unwrap_or_else(std::sync::PoisonError::into_inner).0;
    }
    true
}

/// Hands `run` to the reaper thread, which runs it once all of `after` are reached, or with an
/// error once they cannot be asked any more. Never blocks, and a job that waits holds up no
/// other. If the thread cannot be started jobs are dropped unrun: what they would have freed is
/// leaked, the lesser evil inside a `Drop`.
pub(crate) fn reap(after: Vec<Arc<Event>>, run: impl FnOnce(Result<()>) + Send + 'static) {
    static REAPER: OnceLock<Option<Sender<Job>>> = OnceLock::new();
    let reaper = REAPER.get_or_init(|| {
        let (sender, jobs) = crossbeam_channel::unbounded();
        std::thread::Builder::new()
            .name("riverbed-reaper".into())
            .spawn(move || work(&jobs))
            .inspect_err(|error| tracing::error!(%error, "no reaper thread: memory will leak"))
            .ok()
            .map(|_| sender)
    });
    if let Some(reaper) = reaper {
        // It fails only if the thread died, and then there is nobody left to tell.
        let _ = reaper.send(Job { after, refusals: 0, run: Box::new(run), open: GivingUp::new() });
    }
}

/// Does `work` on a thread of its own: it may wait for ever, and holds up no job of the reaper.
/// Never blocks. If the thread cannot be started the work is dropped undone.
pub(super) fn apart(work: impl FnOnce() + Send + 'static) {
    let open = GivingUp::new();
    let started = std::thread::Builder::new().name("riverbed-farewell".into()).spawn(move || {
        work();
        drop(open);
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread to let go of a device: it stays held");
    }
}

fn work(jobs: &Receiver<Job>) {
    let mut waiting: Vec<Job> = Vec::new();
    loop {
        let next = if waiting.is_empty() {
            jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            jobs.recv_timeout(ASK_EVERY)
        };
        match next {
            Ok(job) => waiting.push(job),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        for mut job in std::mem::take(&mut waiting) {
            match job.still_waits() {
                Ok(true) => waiting.push(job),
                Ok(false) => job.run(Ok(())),
                Err(_) if job.refusals < REFUSALS => {
                    job.refusals += 1;
                    waiting.push(job);
                }
                Err(error) => {
                    tracing::warn!(%error, "a lost device's memory is left alone");
                    job.run(Err(error));
                }
            }
        }
    }
}

impl Job {
    fn run(self, reached: Result<()>) {
        let Self { after, run, open, .. } = self;
        run(reached);
        drop(after);
        drop(open);
    }

    fn still_waits(&mut self) -> Result<bool> {
        while let Some(event) = self.after.last() {
            if !event.query()? {
                return Ok(true);
            }
            self.after.pop();
        }
        Ok(false)
    }
}

/// How many jobs there are, and who waits for the last.
struct Open {
    count: Mutex<u64>,
    none: Condvar,
}

/// Something that was given up and is still on its way back: [`settle`] waits until this is gone.
/// For whoever ends by itself, such as a thread that was told to end and is not joined.
#[derive(Debug)]
pub(crate) struct GivingUp(());

impl GivingUp {
    pub(crate) fn new() -> Self {
        *lock(&OPEN.count) += 1;
        Self(())
    }
}

impl Drop for GivingUp {
    fn drop(&mut self) {
        let mut count = lock(&OPEN.count);
        *count -= 1;
        if *count == 0 {
            OPEN.none.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settling_waits_for_jobs_and_for_what_they_give_up_in_turn() {
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let (done, end) = std::sync::mpsc::channel();
        reap(Vec::new(), move |_| {
            let _ = wait.recv();
            reap(Vec::new(), move |_| {
                let _ = done.send(());
            });
        });
        assert!(!settle(Duration::ZERO), "a job stands in the way");
        drop(go_on);
        assert!(settle(Duration::from_secs(60)));
        assert_eq!(end.try_recv(), Ok(()), "the second job ran too");
    }
}
