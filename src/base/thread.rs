//! Which thread this is, as a number that costs nothing to read, and whether a thread is over.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex};

use super::sync::lock;

/// What stands where a thread has no number yet; no thread has it.
const NO_TOKEN: u64 = u64::MAX;

thread_local! {
    static TOKEN: Cell<u64> = const { Cell::new(NO_TOKEN) };
    static ALIVE: Arc<()> = Arc::new(());
}

/// The threads that have a token, but for those found to be over.
static THREADS: Mutex<BTreeMap<u64, Sign>> = Mutex::new(BTreeMap::new());

/// What tells that a thread is over.
#[derive(Debug)]
struct Sign {
    /// The only clone once the thread's own is dropped, which is before its last destructor.
    alive: Arc<()>,
    #[cfg(target_os = "linux")]
    id: rustix::thread::Pid,
}

/// A number, never 0, that no other thread of this process has or had.
#[inline]
pub(crate) fn thread_token() -> u64 {
    match TOKEN.get() {
        NO_TOKEN => new_token(),
        token => token,
    }
}

/// As [`thread_token`], for comparing alone: a thread that has never asked for its number gets
/// one that is nobody's.
#[inline(always)]
pub(crate) fn thread_token_if_any() -> u64 {
    TOKEN.get()
}

#[cold]
fn new_token() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let token = NEXT.fetch_add(1, Ordering::Relaxed);
    TOKEN.set(token);
    let sign = Sign::of_this_thread();
    let mut threads = lock(&THREADS);
    threads.retain(|_, other| !other.is_over());
    threads.insert(token, sign);
    token
}

/// True if the thread of that token is over, and what it wrote is seen from here on; false if it
/// runs, or cannot be told. Asks the system, unless the thread runs.
#[cold]
pub(crate) fn is_over(token: u64) -> bool {
    let mut threads = lock(&THREADS);
    let over = threads.get(&token).is_none_or(Sign::is_over);
    if over {
        threads.remove(&token);
        fence(Ordering::Acquire);
    }
    over
}

impl Sign {
    fn of_this_thread() -> Self {
        Self {
            alive: ALIVE.try_with(Arc::clone).unwrap_or_default(),
            #[cfg(target_os = "linux")]
            id: rustix::thread::gettid(),
        }
    }

    /// A thread may come here from destructors that run after that of `ALIVE`, so the system
    /// has the last word.
    fn is_over(&self) -> bool {
        Arc::strong_count(&self.alive) == 1 && self.is_gone()
    }

    #[cfg(target_os = "linux")]
    fn is_gone(&self) -> bool {
        let runs = |id: rustix::thread::Pid| {
            let path = format!("/proc/self/task/{}", id.as_raw_nonzero());
            std::fs::exists(path)
        };
        // Where this very thread is not to be found, nothing can be told.
        matches!((runs(self.id), runs(rustix::thread::gettid())), (Ok(false), Ok(true)))
    }

    #[cfg(not(target_os = "linux"))]
    fn is_gone(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Biased;

    /// Asks for its thread's token as late as anything can.
    struct Late(std::sync::mpsc::Sender<(u64, bool)>);

    impl Drop for Late {
        fn drop(&mut self) {
            let token = thread_token();
            let _ = self.0.send((token, is_over(token)));
        }
    }

    thread_local! {
        static LATE: Cell<Option<Late>> = const { Cell::new(None) };
    }

    #[test]
    fn a_thread_is_over_when_its_last_destructor_is() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let token = std::thread::spawn(move || {
            // Whichever of the two is destroyed first: the token stays what it was.
            LATE.set(Some(Late(sender)));
            thread_token()
        });
        let token = token.join().unwrap();
        assert_eq!(receiver.recv().unwrap(), (token, false));
        // A thread can be joined a moment before the system has let it go.
        while !is_over(token) {
            std::thread::yield_now();
        }
        assert!(!is_over(thread_token()));
    }

    #[test]
    fn places_of_threads_that_are_over_go_to_others() {
        let lock = Biased::new(0u32);
        if !crate::base::barrier::is_asymmetric() {
            return; // Nobody ever is an owner here.
        }
        for _ in 0..200 {
            let enter_as_owner = || {
                let me = thread_token();
                loop {
                    if let Some(mut inside) = lock.as_owner(me) {
                        *inside.get() += 1;
                        break;
                    }
                    drop(lock.enter(me).unwrap());
                }
            };
            std::thread::scope(|scope| scope.spawn(enter_as_owner).join().unwrap());
        }
        assert_eq!(*lock.enter(thread_token()).unwrap(), 200);
    }
}
