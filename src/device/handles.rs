//! Owned handles over the contract: a stream, an event, a gate. Each keeps its driver alive
//! and gives the handle up when dropped, without blocking; a driver error at that point is
//! logged, for there is nobody to return it to.

use std::sync::Arc;

use super::contract::{Driver, EventId, GateId, HostFn, Priority, StreamId};
use super::open::Device;
use crate::base::{DeviceError, Error, Result};

/// A queue of device work that runs in order. Clones name the same stream; the last one gone,
/// the driver's stream is given up, and what was enqueued still runs.
#[derive(Debug, Clone)]
pub struct Stream(Arc<StreamInner>);

#[derive(Debug)]
struct StreamInner {
    device: Device,
    id: StreamId,
    owned: bool,
}

impl Stream {
    /// A new stream on `device`.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(device: &Device, priority: Priority) -> Result<Self> {
        let id = device.driver().create_stream(priority)?;
        Ok(Self(Arc::new(StreamInner { device: device.clone(), id, owned: true })))
    }

    /// Wraps a stream made elsewhere; it is not destroyed here.
    ///
    /// # Safety
    /// `id` is a stream of `device` and outlives all clones of this handle, and whatever was
    /// allocated on it.
    #[must_use]
    pub unsafe fn from_raw(device: &Device, id: StreamId) -> Self {
        Self(Arc::new(StreamInner { device: device.clone(), id, owned: false }))
    }

    /// The device it runs on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// The driver's handle.
    #[must_use]
    #[inline]
    pub fn id(&self) -> StreamId {
        self.0.id
    }

    /// Blocks until everything enqueued so far has run.
    ///
    /// # Errors
    /// What the driver says.
    pub fn synchronize(&self) -> Result<()> {
        Ok(self.driver().synchronize_stream(self.id())?)
    }

    /// Makes later work of this stream wait for the event's present mark. Never blocks.
    ///
    /// # Errors
    /// What the driver says; an event of another device.
    pub fn wait(&self, event: &Event) -> Result<()> {
        self.device().same_as(&event.device, "event")?;
        Ok(self.driver().wait_event(self.id(), event.id)?)
    }

    /// Makes later work of this stream wait until `gate` is at `value`. Never blocks.
    ///
    /// # Errors
    /// What the driver says; a gate of another device.
    pub fn wait_gate(&self, gate: &Gate, value: u64) -> Result<()> {
        self.device().same_as(&gate.device, "gate")?;
        Ok(self.driver().wait_gate(self.id(), gate.id, value)?)
    }

    /// True while what is enqueued is recorded into a graph instead of run. Never blocks.
    ///
    /// # Errors
    /// What the driver says.
    pub fn is_capturing(&self) -> Result<bool> {
        Ok(self.driver().is_capturing(self.id())?)
    }

    /// Enqueues a call of `function` on the host. It must not call the driver. Never blocks.
    ///
    /// # Errors
    /// What the driver says.
    pub fn launch_host(&self, function: HostFn) -> Result<()> {
        Ok(self.driver().launch_host(self.id(), function)?)
    }

    /// Keeps the stream busy for `ns` nanoseconds of device time. Never blocks the host.
    ///
    /// # Errors
    /// What the driver says.
    pub fn busy(&self, ns: u64) -> Result<()> {
        // SAFETY: this kernel touches no memory.
        Ok(unsafe { self.driver().launch(self.id(), &super::Kernel::Busy { ns }) }?)
    }

    fn driver(&self) -> &dyn Driver {
        self.0.device.driver()
    }
}

impl PartialEq for Stream {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id && self.0.device == other.0.device
    }
}

impl Eq for Stream {}

impl Drop for StreamInner {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: the last clone is gone, so nobody can use the handle again.
            log_failure(unsafe { self.device.driver().destroy_stream(self.id) });
        }
    }
}

/// A mark in a stream that others can wait for.
#[derive(Debug)]
pub struct Event {
    device: Device,
    id: EventId,
    timing: bool,
}

impl Event {
    /// A new event without timing, as fences want it.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(device: &Device) -> Result<Self> {
        Self::create(device, false)
    }

    /// A new event that [`elapsed_ns_since`](Self::elapsed_ns_since) can read.
    ///
    /// # Errors
    /// What the driver says.
    pub fn with_timing(device: &Device) -> Result<Self> {
        Self::create(device, true)
    }

    fn create(device: &Device, timing: bool) -> Result<Self> {
        let id = device.driver().create_event(timing)?;
        Ok(Self { device: device.clone(), id, timing })
    }

    /// Marks the present end of `stream`; recording again moves the mark. Never blocks.
    ///
    /// # Errors
    /// What the driver says; a stream of another device.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        self.device.same_as(stream.device(), "stream")?;
        Ok(self.device.driver().record_event(self.id, stream.id())?)
    }

    /// True once the latest mark was reached, and before any mark. Never blocks.
    ///
    /// # Errors
    /// What the driver says.
    pub fn query(&self) -> Result<bool> {
        Ok(self.device.driver().query_event(self.id)?)
    }

    /// Blocks until the latest mark was reached.
    ///
    /// # Errors
    /// What the driver says.
    pub fn synchronize(&self) -> Result<()> {
        Ok(self.device.driver().synchronize_event(self.id)?)
    }

    /// Nanoseconds of device time between two reached marks; 0 if this one was first.
    ///
    /// # Errors
    /// An event without timing or not reached yet; what the driver says.
    pub fn elapsed_ns_since(&self, start: &Event) -> Result<u64> {
        self.device.same_as(&start.device, "event")?;
        if !(self.timing && start.timing) {
            return Err(Error::invalid("event", "no timing", "make it with Event::with_timing"));
        }
        Ok(self.device.driver().elapsed_ns(start.id, self.id)?)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: this is the only owner of the handle, and it is going.
        log_failure(unsafe { self.device.driver().destroy_event(self.id) });
    }
}

/// A number the host raises and streams wait for: how a stream waits for something that is
/// not device work, such as a disk read. Dropping it lets waiting streams through.
#[derive(Debug)]
pub struct Gate {
    device: Device,
    id: GateId,
}

impl Gate {
    /// A gate at 0.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(device: &Device) -> Result<Self> {
        let id = device.driver().create_gate()?;
        Ok(Self { device: device.clone(), id })
    }

    /// Raises the gate to `value`; it never falls. Never blocks.
    ///
    /// # Errors
    /// What the driver says.
    pub fn open(&self, value: u64) -> Result<()> {
        Ok(self.device.driver().open_gate(self.id, value)?)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // SAFETY: this is the only owner of the handle, and it is going.
        log_failure(unsafe { self.device.driver().destroy_gate(self.id) });
    }
}

fn log_failure(result: Result<(), DeviceError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "giving up a driver handle failed");
    }
}
