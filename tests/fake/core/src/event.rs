//! Events.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use riverbed::device::{Device, EventId};

use crate::Vendor;
use crate::capture::Capture;
use crate::device::{driver, driver_call};
use crate::entry::misuse;
use crate::fake::{Fake, Kind, lock};
use crate::status::{Answer, CAPTURED_EVENT, INVALID_HANDLE, INVALID_VALUE, NOT_READY};

/// An event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) gpu: usize,
    host: Device,
    raw: EventId,
    timing: bool,
    recorded: AtomicBool,
    /// The capture and stream it was last recorded in, if it was in one.
    pub(crate) captured: Mutex<Option<(Arc<Capture>, u64)>>,
}

const NO_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;

impl Fake {
    pub fn create_event(&self, flags: u32) -> Answer<u64> {
        let known = match self.vendor {
            Vendor::Cuda => 0x7,
            Vendor::Hip => 0xe000_0007,
        };
        if flags & !known != 0 || flags & (INTERPROCESS | NO_TIMING) == INTERPROCESS {
            return Err(misuse(
                "invalid_argument",
                format!("event flags {flags:#x}"),
                INVALID_VALUE,
            ));
        }
        let gpu = self.current()?;
        let host = self.host(gpu)?;
        let timing = flags & NO_TIMING == 0;
        let raw = driver_call(driver(&host).create_event(timing))?;
        let event = Event {
            gpu,
            host,
            raw,
            timing,
            recorded: AtomicBool::new(false),
            captured: Mutex::default(),
        };
        let mut state = self.state();
        let handle = state.number(Kind::Event);
        state.events.insert(handle, Arc::new(event));
        Ok(handle)
    }

    fn event(&self, handle: u64) -> Answer<Arc<Event>> {
        let state = self.state();
        if let Some(event) = state.events.get(&handle) {
            return Ok(Arc::clone(event));
        }
        let (kind, words) = state.not_alive(Kind::Event, handle);
        drop(state);
        Err(misuse(kind, words, INVALID_HANDLE))
    }

    pub fn destroy_event(&self, handle: u64) -> Answer {
        let event = self.event(handle)?;
        self.state().events.remove(&handle);
        // SAFETY: the handle is out of the table, so that no call uses the event again; waits
        // enqueued on it stay good.
        driver_call(unsafe { driver(&event.host).destroy_event(event.raw) })
    }

    pub fn record_event(&'static self, handle: u64, stream: u64) -> Answer {
        let event = self.event(handle)?;
        let stream = self.stream(stream)?;
        if event.gpu != stream.gpu {
            let words = format!("event of device {}, stream of {}", event.gpu, stream.gpu);
            return Err(misuse("wrong_context", words, INVALID_HANDLE));
        }
        if let Some(capture) = stream.capture() {
            self.captured(&stream)?;
            *lock(&event.captured) = Some((capture, stream.handle));
            return Ok(());
        }
        *lock(&event.captured) = None;
        self.order_with_defaults(&stream)?;
        let late = Duration::from_micros(self.settings.late_us);
        let driver = driver(&stream.host);
        if !late.is_zero() {
            let wait = Box::new(move || std::thread::sleep(late));
            driver_call(driver.launch_host(stream.raw, wait))?;
        }
        driver_call(driver.record_event(event.raw, stream.raw))?;
        event.recorded.store(true, Ordering::Release);
        stream.moved_on()
    }

    /// Makes a stream wait for an event.
    pub fn wait_event(&self, stream: u64, handle: u64, flags: u32) -> Answer {
        if flags > 1 {
            return Err(misuse(
                "invalid_argument",
                format!("wait flags {flags:#x}"),
                INVALID_VALUE,
            ));
        }
        let stream = self.stream(stream)?;
        let event = self.event(handle)?;
        let captured = lock(&event.captured).clone();
        if self.joined(&stream, captured)? {
            return Ok(());
        }
        self.order_with_defaults(&stream)?;
        if event.recorded.load(Ordering::Acquire) {
            if event.gpu == stream.gpu {
                driver_call(driver(&stream.host).wait_event(stream.raw, event.raw))?;
            } else {
                self.wait_for_other_device(&stream, &event)?;
            }
        }
        stream.moved_on()
    }

    /// A host device knows no events of another: the stream's thread waits itself.
    fn wait_for_other_device(
        &self,
        stream: &Arc<crate::stream::Stream>,
        event: &Arc<Event>,
    ) -> Answer {
        // The mark of now, whatever is recorded later.
        let other = event.host.clone();
        let relay = driver_call(driver(&other).create_stream(riverbed::device::Priority::Normal))?;
        driver_call(driver(&other).wait_event(relay, event.raw))?;
        let wait = Box::new(move || {
            let _ = driver(&other).synchronize_stream(relay);
            // SAFETY: the relay was made for this one wait.
            let _ = unsafe { driver(&other).destroy_stream(relay) };
        });
        driver_call(driver(&stream.host).launch_host(stream.raw, wait))
    }

    pub fn query_event(&self, handle: u64) -> Answer {
        let event = self.event(handle)?;
        refuse_captured(&event)?;
        self.unsafe_in_capture()?;
        if driver_call(driver(&event.host).query_event(event.raw))? {
            Ok(())
        } else {
            Err(NOT_READY)
        }
    }

    pub fn synchronize_event(&self, handle: u64) -> Answer {
        let event = self.event(handle)?;
        refuse_captured(&event)?;
        self.unsafe_in_capture()?;
        driver_call(driver(&event.host).synchronize_event(event.raw))?;
        self.lost().map_or(Ok(()), Err)
    }

    /// Milliseconds from one event to another.
    pub fn elapsed(&self, start: u64, end: u64) -> Answer<f32> {
        let (start, end) = (self.event(start)?, self.event(end)?);
        for event in [&start, &end] {
            if !event.timing || !event.recorded.load(Ordering::Acquire) {
                let words = "an event without timing, or never recorded";
                return Err(misuse("invalid_argument", words, INVALID_HANDLE));
            }
            if !driver_call(driver(&event.host).query_event(event.raw))? {
                return Err(NOT_READY);
            }
        }
        if start.gpu != end.gpu {
            return Err(misuse("wrong_context", "events of two devices", INVALID_HANDLE));
        }
        let ns = driver_call(driver(&end.host).elapsed_ns(start.raw, end.raw))?;
        Ok(ns as f32 / 1e6)
    }
}

fn refuse_captured(event: &Event) -> Answer {
    match &*lock(&event.captured) {
        None => Ok(()),
        Some((capture, _)) => {
            capture.invalidate();
            let words = "last recorded in a capturing stream";
            Err(misuse("captured_event", words, CAPTURED_EVENT))
        }
    }
}
