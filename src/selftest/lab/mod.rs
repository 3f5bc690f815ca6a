//! Where checks work: a device, and everything a check took of it.
//!
//! *Purpose*: checks take streams, memory and handles here and never give back what they need
//! not. The lab gives it back, in an order that is safe after any failure: gates open, streams
//! run dry, then memory goes.
//!
//! *Semantics*: addresses handed to work must lie in memory the lab holds; others are a finding,
//! and never reach the driver. Checks synchronize before they read, free or unmap what work
//! touches.
//!
//! *Invariants*: (L1) No step blocks for ever at a gate: a watcher opens all of them once
//! patience is over, gives them up when that does not help, and the check then fails. (L2) A call that gives something back is tried
//! again when it fails, and the failure is reported. (L3) What may still be in use is not given
//! back.

mod cleanup;
mod events;
mod gates;
mod helpers;
mod memory;
mod pinned;
mod pools;
mod ranges;
mod virtual_memory;
mod wide_copies;
mod work;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::finding::Finding;
use crate::base::lock;
use crate::device::{
    Device, DeviceInfo, DevicePtr, Driver, Event, PageId, PoolId, Priority, Stream,
};
use gates::Watcher;
use ranges::Ranges;

pub(in crate::selftest) use helpers::Log;
pub(in crate::selftest) use pinned::HostPtr;
pub(in crate::selftest) use wide_copies::{End, Rows};

/// What checks end with.
pub(in crate::selftest) type Found<T = ()> = Result<T, Finding>;

/// A device, and what one check holds of it.
#[derive(Debug)]
pub(in crate::selftest) struct Lab {
    device: Device,
    held: Mutex<Held>,
    watcher: Watcher,
    patience: Duration,
    /// Free memory at first, where nobody else uses the device.
    before_bytes: Option<u64>,
    /// Whether something of the check gives memory back in the background.
    later: AtomicBool,
}

/// What is to be given back.
#[derive(Debug, Default)]
struct Held {
    streams: Vec<Stream>,
    /// Ends of streams that were given up.
    ends: Vec<Event>,
    /// All device memory that work may touch.
    usable: Ranges,
    allocated: Vec<DevicePtr>,
    reserved: Vec<(DevicePtr, u64)>,
    pages: Vec<(PageId, u64)>,
    mapped: Vec<(DevicePtr, u64)>,
    pools: Vec<PoolId>,
    pooled: Vec<DevicePtr>,
    pinned: Vec<HostPtr>,
    registered: Vec<HostPtr>,
    /// Host memory that copies may touch.
    host: Ranges,
    /// Memory of the lab's own that can be registered.
    own: Vec<Vec<u8>>,
}

impl Lab {
    pub(super) fn new(device: &Device, patience: Duration) -> Self {
        Self {
            device: device.clone(),
            held: Mutex::default(),
            watcher: Watcher::new(device, patience),
            patience,
            before_bytes: None,
            later: AtomicBool::new(false),
        }
        .with_figures()
    }

    fn with_figures(mut self) -> Self {
        let memory = self.device.memory().ok();
        self.before_bytes = memory.filter(|_| self.is_alone()).map(|memory| memory.free_bytes);
        self
    }

    /// Says that what the check uses may give memory back after it was dropped.
    pub(in crate::selftest) fn gives_back_later(&self) {
        self.later.store(true, Ordering::Relaxed);
    }

    pub(in crate::selftest) fn device(&self) -> &Device {
        &self.device
    }

    pub(in crate::selftest) fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    /// The page size of device memory, in bytes.
    pub(in crate::selftest) fn page_bytes(&self) -> u64 {
        self.info().granularity_bytes
    }

    /// True where nobody else uses the device: its free memory can be compared.
    pub(in crate::selftest) fn is_alone(&self) -> bool {
        self.info().simulated || self.info().host_accessible
    }

    /// How long to wait for what is sure to happen.
    pub(in crate::selftest) fn patience(&self) -> Duration {
        self.patience
    }

    /// Free device memory now, in bytes.
    pub(in crate::selftest) fn free_bytes(&self) -> Found<u64> {
        Ok(self.device.memory()?.free_bytes)
    }

    /// A stream of normal priority.
    pub(in crate::selftest) fn stream(&self) -> Found<Stream> {
        let stream = Stream::new(&self.device, Priority::Normal)?;
        lock(&self.held).streams.push(stream.clone());
        Ok(stream)
    }

    /// Drops the last handle of a stream, with what is enqueued on it.
    pub(in crate::selftest) fn give_up(&self, stream: Stream) -> Found {
        let end = self.event()?;
        end.record(&stream)?;
        let mut held = lock(&self.held);
        held.ends.push(end);
        held.streams.retain(|other| *other != stream);
        drop(held);
        drop(stream);
        Ok(())
    }

    /// Drops the last handle of a stream that was synchronized and given nothing since.
    pub(in crate::selftest) fn drop_idle(&self, stream: Stream) {
        lock(&self.held).streams.retain(|other| *other != stream);
    }

    pub(in crate::selftest) fn event(&self) -> Found<Event> {
        Ok(Event::new(&self.device)?)
    }

    pub(in crate::selftest) fn timed_event(&self) -> Found<Event> {
        Ok(Event::with_timing(&self.device)?)
    }

    /// Waits for all work enqueued on `stream`.
    pub(in crate::selftest) fn sync(&self, stream: &Stream) -> Found {
        stream.synchronize()?;
        self.watcher.verdict()
    }

    /// Waits for the mark of `event`.
    pub(in crate::selftest) fn reach(&self, event: &Event) -> Found {
        event.synchronize()?;
        self.watcher.verdict()
    }

    fn driver(&self) -> &dyn Driver {
        self.device.driver()
    }
}
