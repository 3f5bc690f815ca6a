//! Copies in host memory by several threads at once: one thread does not reach the memory's rate.
//!
//! The helpers are shared by the process, started at first use, and never many. Whoever copies
//! does the most of it while they are busy elsewhere, and waits only for stripes in the works.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use crossbeam_channel::Sender;

use super::nontemporal::copy_nontemporal;
use crate::base::{KIB, MIB, lock, wait};

/// Below this one thread is as fast as several, which must be woken.
const STRIPE_FROM_BYTES: usize = MIB as usize;
/// What one thread copies at a time: tens of microseconds, so that all end at about one time.
const STRIPE_BYTES: usize = 256 * KIB as usize;
/// How often is asked before sleeping: about as long as it takes to be woken.
const AWAKE_TRIES: usize = 64;
/// More threads than that gain nothing: they share the memory.
const MOST_HELPERS: usize = 7;

/// Of a larger target nothing is left in the caches when its last bytes arrive, or little.
const CACHED_UP_TO_BYTES: usize = 16 * MIB as usize;
/// Below this a copy is made through the caches whatever its target: they have room for it.
const NONTEMPORAL_FROM_BYTES: usize = 4 * KIB as usize;

/// How the target is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stores {
    /// Through the caches: it is read soon.
    Cached,
    /// Past them: it is not.
    Nontemporal,
}

impl Stores {
    /// For `bytes` that the processor reads once all are there.
    pub(crate) fn to(bytes: usize) -> Self {
        if bytes > CACHED_UP_TO_BYTES { Self::Nontemporal } else { Self::Cached }
    }

    /// # Safety
    /// As `std::ptr::copy_nonoverlapping`.
    unsafe fn copy(self, dst: *mut u8, src: *const u8, bytes: usize) {
        // SAFETY: by this function's own contract.
        unsafe {
            match self {
                Self::Nontemporal if bytes >= NONTEMPORAL_FROM_BYTES => {
                    copy_nontemporal(dst, src, bytes);
                }
                _ => std::ptr::copy_nonoverlapping(src, dst, bytes),
            }
        }
    }

    /// Copies what of `pieces` goes to `range` of the target.
    ///
    /// # Safety
    /// As [`gather_striped`], for that range.
    unsafe fn gather(self, dst: *mut u8, pieces: &[Gathered], range: Range<usize>) {
        let first = pieces.partition_point(|piece| piece.at + piece.bytes <= range.start);
        for piece in pieces[first..].iter().take_while(|piece| piece.at < range.end) {
            let (from, to) = (piece.at.max(range.start), (piece.at + piece.bytes).min(range.end));
            // SAFETY: within the piece and the target; the rest is this function's own contract.
            unsafe {
                let src = (piece.src as *const u8).add(from - piece.at);
                self.copy(dst.add(from), src, to - from);
            }
        }
    }
}

/// A piece of memory, and where it goes in what is gathered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gathered {
    /// Its address.
    pub(crate) src: u64,
    /// Bytes from the start of the target.
    pub(crate) at: usize,
    pub(crate) bytes: usize,
}

/// A copy that several threads carry out.
struct Striped {
    stores: Stores,
    dst: *mut u8,
    pieces: *const [Gathered],
    bytes: usize,
    /// The next stripe nobody has taken.
    next: AtomicUsize,
    /// Stripes not done.
    left: AtomicUsize,
    /// Held to sleep until there are none, and to tell of that.
    sleeping: Mutex<()>,
    done: Condvar,
}

// SAFETY: addresses are numbers. Whoever takes a stripe may copy it: the copy's owner has not
// returned, for the stripe is not done, and it promised for the ranges until then.
unsafe impl Send for Striped {}
// SAFETY: as above; each stripe is taken by one thread.
unsafe impl Sync for Striped {}

impl Striped {
    fn stripes(&self) -> usize {
        self.bytes.div_ceil(STRIPE_BYTES)
    }

    fn work(&self) {
        let mut done = 0;
        loop {
            // Relaxed: what the owner wrote before comes with the task, and what is copied is
            // handed over by the lock.
            let stripe = self.next.fetch_add(1, Ordering::Relaxed);
            if stripe >= self.stripes() {
                break;
            }
            let start = stripe * STRIPE_BYTES;
            let bytes = STRIPE_BYTES.min(self.bytes - start);
            // SAFETY: the owner has not returned, so the pieces are there. They and the target are
            // valid and do not overlap by the promise of its caller, and nobody else has this
            // stripe.
            unsafe { self.stores.gather(self.dst, &*self.pieces, start..start + bytes) };
            done += 1;
        }
        // Release: who sees that nothing is left sees the bytes. The lock, so that the owner does
        // not fall asleep between its look and this.
        if done > 0 && self.left.fetch_sub(done, Ordering::Release) == done {
            drop(lock(&self.sleeping));
            self.done.notify_all();
        }
    }

    /// Waits until all stripes are done: the last is a matter of microseconds.
    fn finish(&self) {
        let is_done = || self.left.load(Ordering::Acquire) == 0;
        if soon(|| is_done().then_some(())).is_none() {
            let mut sleeping = lock(&self.sleeping);
            while !is_done() {
                sleeping = wait(&self.done, sleeping);
            }
        }
    }
}

/// Copies `bytes` from `src` to `dst` on this thread and up to `threads - 1` helpers. Blocks
/// until all is copied.
///
/// # Safety
/// As `std::ptr::copy_nonoverlapping`.
pub(crate) unsafe fn copy_striped(
    dst: *mut u8,
    src: *const u8,
    bytes: usize,
    threads: usize,
    stores: Stores,
) {
    // SAFETY: by this function's own contract.
    unsafe { gather_striped(dst, &[Gathered { src: src as u64, at: 0, bytes }], threads, stores) };
}

/// Copies pieces from anywhere to one place, as [`copy_striped`]. Each begins in the target where
/// the one before it ends.
///
/// # Safety
/// As `std::ptr::copy_nonoverlapping`, for each piece.
pub(crate) unsafe fn gather_striped(
    dst: *mut u8,
    pieces: &[Gathered],
    threads: usize,
    stores: Stores,
) {
    let bytes = pieces.last().map_or(0, |last| last.at + last.bytes);
    let wanted = threads.saturating_sub(1).min(bytes / STRIPE_BYTES);
    let crew = if bytes >= STRIPE_FROM_BYTES && wanted > 0 { crew() } else { None };
    let Some((tasks, helpers)) = crew else {
        // SAFETY: by this function's own contract.
        unsafe { stores.gather(dst, pieces, 0..bytes) };
        return;
    };
    let (next, left) = (AtomicUsize::new(0), AtomicUsize::new(bytes.div_ceil(STRIPE_BYTES)));
    let (sleeping, done) = (Mutex::default(), Condvar::new());
    let copy = Arc::new(Striped { stores, dst, pieces, bytes, next, left, sleeping, done });
    for _ in 0..wanted.min(*helpers) {
        // It fails only when all helpers died, and then this thread does it all.
        let _ = tasks.send(Arc::clone(&copy));
    }
    copy.work();
    copy.finish();
}

/// Asks again for a while, for what is sooner there than a sleeping thread is woken. Others that
/// want the processor have it between.
fn soon<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    (0..AWAKE_TRIES).find_map(|_| {
        let found = ask();
        if found.is_none() {
            std::thread::yield_now();
        }
        found
    })
}

/// How many threads a copy is worth on this machine.
pub(crate) fn copy_threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        cpus.min(4)
    })
}

/// The helpers' queue and their number; none where there is nobody to help.
fn crew() -> Option<&'static (Sender<Arc<Striped>>, usize)> {
    static CREW: OnceLock<Option<(Sender<Arc<Striped>>, usize)>> = OnceLock::new();
    let crew = CREW.get_or_init(|| {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (sender, tasks) = crossbeam_channel::unbounded::<Arc<Striped>>();
        let start = |_: &usize| {
            let tasks = tasks.clone();
            let helper = std::thread::Builder::new().name("riverbed-memcpy".into());
            // A copy is often followed by the next.
            let next = move || soon(|| tasks.try_recv().ok()).or_else(|| tasks.recv().ok());
            helper.spawn(move || std::iter::from_fn(next).for_each(|copy| copy.work())).is_ok()
        };
        let helpers = (1..cpus.min(MOST_HELPERS + 1)).filter(start).count();
        (helpers > 0).then_some((sender, helpers))
    });
    crew.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_at_any_size_from_several_threads_at_once() {
        let sizes = [0, 1, STRIPE_FROM_BYTES - 1, STRIPE_FROM_BYTES, 5 * STRIPE_BYTES + 77];
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for round in 0..20 {
                        for bytes in sizes {
                            let src: Vec<u8> =
                                (0..bytes).map(|at| (at * 7 + thread + round) as u8).collect();
                            let mut dst = vec![0; bytes + 1];
                            let to = dst.as_mut_ptr();
                            let stores = [Stores::Cached, Stores::Nontemporal][round % 2];
                            // SAFETY: two vectors of at least so many bytes.
                            unsafe { copy_striped(to, src.as_ptr(), bytes, 1 + thread, stores) };
                            assert!(dst[..bytes] == src[..] && dst[bytes] == 0, "{bytes}");
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn pieces_from_anywhere_come_to_lie_one_behind_the_other() {
        let src: Vec<u8> = (0..4 * STRIPE_BYTES).map(|at| (at % 251) as u8).collect();
        for (most, threads) in [(7, 1), (90_000, 4), (3 * STRIPE_BYTES, 4)] {
            let (mut pieces, mut wanted, mut from) = (Vec::new(), Vec::new(), 0);
            while wanted.len() < 6 * STRIPE_BYTES && pieces.len() < 1000 {
                from = (from * 31 + 17) % (src.len() - most);
                let bytes = from % (most + 1);
                pieces.push(Gathered { src: src[from..].as_ptr() as u64, at: wanted.len(), bytes });
                wanted.extend_from_slice(&src[from..from + bytes]);
            }
            let mut dst = vec![0; wanted.len() + 1];
            // SAFETY: the pieces lie in one vector, and the other has room for them all.
            unsafe { gather_striped(dst.as_mut_ptr(), &pieces, threads, Stores::Cached) };
            assert!(dst[..wanted.len()] == wanted[..] && dst[wanted.len()] == 0, "{most}");
        }
    }
}
