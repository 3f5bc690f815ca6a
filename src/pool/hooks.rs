//! What users hang into the ladder: callbacks that may free memory before a request fails, and
//! observers of the requests that do. Both are called with no lock held, so they may call the
//! allocator; from within a callback a request that fails asks no callback again.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};

use super::allocator::Allocator;
use super::shared::Shared;
use crate::base::{Error, lock};

/// A request that cannot be served, as callbacks and observers see it. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shortage {
    /// The device, as it was opened.
    pub device: String,
    /// What was asked for.
    pub requested_bytes: u64,
    /// The segment that would have to be made for it.
    pub segment_bytes: u64,
    /// The limit, or all the device has.
    pub allowed_bytes: u64,
    /// What the driver says is free on the device; 0 where it does not say.
    pub device_free_bytes: u64,
    /// The key of the stream that asks.
    pub stream: u64,
}

/// Removes what it stands for when it is dropped; a call under way on another thread still ends.
#[derive(Debug)]
#[must_use = "it is removed again when this is dropped"]
pub struct Registration {
    shared: Weak<Shared>,
    id: u64,
}

type Callback = Arc<dyn Fn(&Shortage) -> bool + Send + Sync>;
type Observer = Arc<dyn Fn(&Shortage, &Error) + Send + Sync>;

/// An allocator's callbacks and observers, in the order in which they came.
#[derive(Default)]
pub(super) struct Hooks(Mutex<Listed>);

#[derive(Default)]
struct Listed {
    made: u64,
    callbacks: Vec<(u64, Callback)>,
    observers: Vec<(u64, Observer)>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = lock(&self.0);
        f.debug_struct("Hooks")
            .field("callbacks", &listed.callbacks.len())
            .field("observers", &listed.observers.len())
            .finish()
    }
}

thread_local! {
    /// The hooks whose callbacks this thread is running, by address.
    static RUNNING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Takes the hooks off the running ones, in whatever way the callback ends.
struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.with_borrow_mut(Vec::pop);
    }
}

impl Hooks {
    /// Calls every callback; true if one says it freed something. Nothing within a callback.
    pub(super) fn ask(&self, shortage: impl FnOnce() -> Shortage) -> bool {
        let callbacks: Vec<Callback> =
            lock(&self.0).callbacks.iter().map(|(_, callback)| Arc::clone(callback)).collect();
        let own = std::ptr::from_ref(self).addr();
        if callbacks.is_empty() || RUNNING.with_borrow(|running| running.contains(&own)) {
            return false;
        }
        let shortage = shortage();
        RUNNING.with_borrow_mut(|running| running.push(own));
        let _running = Running;
        // Every one is called, for each may have something to give.
        callbacks.iter().fold(false, |freed, callback| callback(&shortage) | freed)
    }

    /// Tells every observer of a request that failed.
    pub(super) fn tell(&self, shortage: impl FnOnce() -> Shortage, error: &Error) {
        let observers: Vec<Observer> =
            lock(&self.0).observers.iter().map(|(_, observer)| Arc::clone(observer)).collect();
        if !observers.is_empty() {
            let shortage = shortage();
            observers.iter().for_each(|observer| observer(&shortage, error));
        }
    }

    fn add(&self, add: impl FnOnce(&mut Listed, u64)) -> u64 {
        let mut listed = lock(&self.0);
        listed.made += 1;
        let id = listed.made;
        add(&mut listed, id);
        id
    }
}

impl Allocator {
    /// Has `callback` called when a request finds no memory and the device gives none, before
    /// the host waits for streams and gives up what is cached. It may free memory of this
    /// allocator or of others, and says whether it did; the request is then tried again. Several
    /// are called in the order in which they came.
    ///
    /// Called on the thread that asks for memory, with no lock held. It may use the allocator; a
    /// request it makes itself asks no callback. It must not wait for that thread.
    ///
    /// ```
    /// use std::sync::Mutex;
    /// use riverbed::device::{Device, Priority, Stream};
    /// use riverbed::pool::Allocator;
    ///
    /// let device = Device::open("host:vram=32MiB")?;
    /// let stream = Stream::new(&device, Priority::Normal)?;
    /// let allocator = Allocator::builder(&device).build()?;
    /// let cache = Mutex::new(vec![allocator.alloc::<u8>(20 << 20, &stream)?]);
    /// let cache = std::sync::Arc::new(cache);
    /// let spare = std::sync::Arc::clone(&cache);
    /// let _registration =
    ///     allocator.on_out_of_memory(move |_| spare.lock().is_ok_and(|mut one| one.pop().is_some()));
    /// allocator.alloc::<u8>(18 << 20, &stream)?; // served from what the cache gave up
    /// # Ok::<(), riverbed::Error>(())
    /// ```
    pub fn on_out_of_memory(
        &self,
        callback: impl Fn(&Shortage) -> bool + Send + Sync + 'static,
    ) -> Registration {
        let shared = &self.inner().shared;
        let id = shared.hooks.add(|listed, id| listed.callbacks.push((id, Arc::new(callback))));
        Registration { shared: Arc::downgrade(shared), id }
    }

    /// Has `observer` called for every request that fails, with the error its caller will get.
    /// Called on the thread that asked, with no lock held; it may use the allocator.
    pub fn on_failure(
        &self,
        observer: impl Fn(&Shortage, &Error) + Send + Sync + 'static,
    ) -> Registration {
        let shared = &self.inner().shared;
        let id = shared.hooks.add(|listed, id| listed.observers.push((id, Arc::new(observer))));
        Registration { shared: Arc::downgrade(shared), id }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut listed = lock(&shared.hooks.0);
        let Listed { callbacks, observers, .. } = &mut *listed;
        // Dropped after the lock: what they own may itself be a registration.
        let _removed = (
            callbacks.extract_if(.., |(id, _)| *id == self.id).collect::<Vec<_>>(),
            observers.extract_if(.., |(id, _)| *id == self.id).collect::<Vec<_>>(),
        );
        drop(listed);
    }
}
