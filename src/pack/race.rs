//! Jobs on several threads whose outcome does not depend on how the threads ran.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::base::lock;

/// Runs the jobs `0..count` on up to `threads` threads and gives all results up to and with the
/// first, in the order of the jobs, that `is_win` accepts. Jobs behind a win are not begun, and
/// those that run are told through `Lost` that nobody needs them.
///
/// A result must depend on the job's number alone, but for jobs that lost.
pub(super) fn race<T: Send, S>(
    count: usize,
    threads: usize,
    start: impl Fn() -> S + Sync,
    run: impl Fn(&mut S, usize, &Lost<'_>) -> T + Sync,
    is_win: impl Fn(&T) -> bool + Sync,
) -> Vec<T> {
    let (next, winner) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let results: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::new());
    let work = || {
        let mut state = None;
        loop {
            let job = next.fetch_add(1, Ordering::Relaxed);
            if job >= count || job > winner.load(Ordering::Relaxed) {
                return;
            }
            let lost = Lost { job, winner: &winner };
            let result = run(state.get_or_insert_with(&start), job, &lost);
            if is_win(&result) {
                winner.fetch_min(job, Ordering::Relaxed);
            }
            lock(&results).push((job, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(count) {
            // Where no thread can be had, this one does the work alone.
            let _ =
                std::thread::Builder::new().name("riverbed-pack".into()).spawn_scoped(scope, work);
        }
        work();
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_unstable_by_key(|&(job, _)| job);
    let winner = winner.into_inner();
    results.into_iter().filter(|&(job, _)| job <= winner).map(|(_, result)| result).collect()
}

/// Whether an earlier job has won.
#[derive(Debug)]
pub(super) struct Lost<'a> {
    job: usize,
    winner: &'a AtomicUsize,
}

impl Lost<'_> {
    pub(super) fn is_lost(&self) -> bool {
        self.winner.load(Ordering::Relaxed) < self.job
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_win_in_job_order_counts_whoever_is_faster() {
        for threads in [1, 2, 4] {
            let run = |(): &mut (), job: usize, lost: &Lost<'_>| {
                // The later winner is done long before the earlier one.
                if job == 3 {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    assert!(!lost.is_lost());
                }
                job
            };
            let results = race(8, threads, || (), run, |&job| job == 3 || job == 5);
            assert_eq!(results, [0, 1, 2, 3]);
        }
    }

    #[test]
    fn without_a_win_every_result_is_given() {
        assert_eq!(race(3, 2, || (), |(), job, _| job, |_| false), [0, 1, 2]);
        assert!(race(0, 2, || (), |(), job, _| job, |_| true).is_empty());
    }
}
