//! The interleavings of a biased lock and of a mailbox, as loom sees them: with every order of
//! loads and stores the memory model allows, up to three preemptions; `LOOM_MAX_PREEMPTIONS` sets
//! another bound.
//!
//! Checked to catch mistakes, each put in by hand and found by these tests: without the light
//! barrier, without the heavy one, with the owner's release of `busy` relaxed, with the look at
//! it relaxed, with one `busy` for all owners, with the mailbox's flag set before the thing is in,
//! and with it cleared after everything was taken out.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// What `biased.rs` takes from the crate, made of loom's parts. Both halves of the barrier are
/// full fences: what the asymmetric one amounts to.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    pub(crate) use loom::sync::{Mutex, MutexGuard};
    pub(crate) use loom::thread::yield_now;

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }

    pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
        mutex.try_lock().ok()
    }

    /// No thread of a model is known to be over.
    pub(crate) fn is_over(_token: u64) -> bool {
        false
    }

    pub(crate) mod barrier {
        use loom::sync::atomic::{Ordering, fence};

        pub(crate) fn prepare() {}

        pub(crate) fn is_asymmetric() -> bool {
            true
        }

        pub(crate) fn light() {
            fence(Ordering::SeqCst);
        }

        pub(crate) fn heavy() {
            fence(Ordering::SeqCst);
        }
    }
}

#[path = "../src/base/biased.rs"]
mod biased;

use biased::{Biased, BiasedGuard, Reentered};
use sync::{AtomicBool, Mutex, Ordering, lock};

/// Memory in which loom finds every race, counted up by whoever is inside.
struct Counter(UnsafeCell<u32>);

// SAFETY: the lock under test lets one thread in at a time; loom checks that it does.
unsafe impl Send for Counter {}

fn shared() -> Arc<Biased<Counter>> {
    Arc::new(Biased::new(Counter(UnsafeCell::new(0))))
}

fn bump(counter: &Counter) {
    // SAFETY: loom itself checks that nobody else touches the cell now; that is the test.
    counter.0.with_mut(|count| unsafe { *count += 1 });
}

fn count(inside: &BiasedGuard<'_, Counter>) {
    bump(inside);
}

/// As the hot path does it: as the owner if it is, else the long way.
fn count_quickly(lock: &Biased<Counter>, me: u64) {
    match lock.as_owner(me) {
        Some(mut inside) => bump(inside.get()),
        None => count(&lock.enter(me).unwrap()),
    }
}

fn counted(lock: &Biased<Counter>, me: u64) -> u32 {
    let inside = lock.enter(me).unwrap();
    // SAFETY: as above.
    inside.0.with(|count| unsafe { *count })
}

fn explore(program: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(3));
    model.check(program);
}

/// The first entry of a thread makes it the owner, so that the second is the fast one.
fn own(lock: &Biased<Counter>, me: u64) {
    count(&lock.enter(me).unwrap());
}

#[test]
fn an_owner_and_another_are_never_inside_together() {
    explore(|| {
        let lock = shared();
        own(&lock, 1);
        let other = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || count(&lock.enter(2).unwrap()))
        };
        count_quickly(&lock, 1);
        count(&lock.enter(1).unwrap());
        other.join().unwrap();
        assert_eq!(counted(&lock, 1), 4);
    });
}

#[test]
fn whoever_withdraws_may_become_the_owner_and_be_withdrawn() {
    explore(|| {
        let lock = shared();
        own(&lock, 1);
        let other = {
            let lock = Arc::clone(&lock);
            // Twice in a row makes it the owner after the first withdrawal.
            thread::spawn(move || {
                for _ in 0..3 {
                    count_quickly(&lock, 2);
                }
            })
        };
        count_quickly(&lock, 1);
        other.join().unwrap();
        assert_eq!(counted(&lock, 1), 5);
    });
}

#[test]
fn trying_takes_nothing_from_an_owner() {
    explore(|| {
        let lock = shared();
        own(&lock, 1);
        let other = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || {
                let inside = lock.try_enter(2);
                inside.iter().for_each(count);
                assert!(inside.is_none(), "the owner owns it");
            })
        };
        count(&lock.enter(1).unwrap());
        other.join().unwrap();
        assert_eq!(counted(&lock, 1), 2);
    });
}

#[test]
fn trying_where_nobody_owns_it_excludes() {
    explore(|| {
        let lock = shared();
        let other = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || {
                let inside = lock.try_enter(2);
                inside.iter().for_each(count);
                u32::from(inside.is_some())
            })
        };
        count(&lock.enter(1).unwrap());
        count(&lock.enter(1).unwrap());
        let tried = other.join().unwrap();
        assert_eq!(counted(&lock, 1), 2 + tried);
    });
}

#[test]
fn nobody_enters_twice() {
    explore(|| {
        let lock = shared();
        for _ in 0..2 {
            // First by the mutex, then as the owner.
            let inside = lock.enter(1).unwrap();
            assert!(lock.as_owner(1).is_none());
            assert_eq!(lock.enter(1).err(), Some(Reentered));
            assert!(lock.try_enter(1).is_none());
            count(&inside);
        }
        assert_eq!(counted(&lock, 1), 2);
    });
}

/// The flag of `pool/mailbox.rs` with its queue as a mutex's vector, which is all loom can see of
/// a channel: set after something is in, cleared before everything is taken out.
struct Mailbox {
    has_any: AtomicBool,
    queue: Mutex<Vec<u32>>,
}

impl Mailbox {
    fn put(&self, thing: u32) {
        lock(&self.queue).push(thing);
        self.has_any.store(true, Ordering::Release);
    }

    fn take_all(&self) -> usize {
        if !self.has_any.load(Ordering::Relaxed) {
            return 0;
        }
        self.has_any.swap(false, Ordering::Acquire);
        std::mem::take(&mut *lock(&self.queue)).len()
    }
}

/// Whatever is in is taken by a look that comes after everything was put in.
#[test]
fn nothing_stays_in_a_mailbox_unseen() {
    explore(|| {
        let mail =
            Arc::new(Mailbox { has_any: AtomicBool::new(false), queue: Mutex::new(Vec::new()) });
        let senders = [1, 2].map(|thing| {
            let mail = Arc::clone(&mail);
            thread::spawn(move || mail.put(thing))
        });
        let mut taken = mail.take_all();
        taken += mail.take_all();
        for sender in senders {
            sender.join().unwrap();
        }
        taken += mail.take_all();
        assert_eq!(taken, 2);
    });
}
