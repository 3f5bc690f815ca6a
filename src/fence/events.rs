//! Events are made once and used again: creating one is a driver call, recording one is cheap.

use std::sync::Mutex;

use crate::base::{Result, lock};
use crate::device::{Device, Event, Stream};

/// A cache of events without timing. Thread-safe; never blocks on the device.
#[derive(Debug)]
pub struct EventPool {
    device: Device,
    idle: Mutex<Vec<Event>>,
}

impl EventPool {
    /// An empty pool for `device`.
    #[must_use]
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), idle: Mutex::new(Vec::new()) }
    }

    /// Makes events until at least `count` are idle, so that so many can be in use at once
    /// without another driver call to make one.
    ///
    /// # Errors
    /// What the driver says.
    pub fn reserve(&self, count: usize) -> Result<()> {
        let mut idle = lock(&self.idle);
        while idle.len() < count {
            idle.push(Event::new(&self.device)?);
        }
        Ok(())
    }

    /// An event that marks the present end of `stream`.
    ///
    /// # Errors
    /// What the driver says.
    pub fn record(&self, stream: &Stream) -> Result<Event> {
        let idle = lock(&self.idle).pop();
        let event = idle.map_or_else(|| Event::new(&self.device), Ok)?;
        match event.record(stream) {
            Ok(()) => Ok(event),
            Err(error) => {
                self.give_back(event);
                Err(error)
            }
        }
    }

    /// Makes later work of `after` wait for everything enqueued on `before`, on the device.
    ///
    /// # Errors
    /// What the driver says.
    pub fn order(&self, before: &Stream, after: &Stream) -> Result<()> {
        let event = self.record(before)?;
        let waiting = after.wait(&event);
        // The wait keeps the mark it was enqueued with, so the event is free again.
        self.give_back(event);
        waiting
    }

    /// Takes an event back.
    pub fn give_back(&self, event: Event) {
        lock(&self.idle).push(event);
    }
}
