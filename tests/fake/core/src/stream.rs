//! Streams: each a stream of the host device, with an event at its end that is always up to
//! date, so that it can be asked whether it is done and default streams can wait for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use riverbed::device::{Device, EventId, Priority, StreamId};

use crate::capture::Capture;
use crate::device::{driver, driver_call};
use crate::entry::{call_name, in_host_function, misuse, misuse_of};
use crate::fake::{Fake, Kind};
use crate::status::{Answer, INVALID_HANDLE, INVALID_VALUE, NOT_READY};

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) handle: u64,
    pub(crate) gpu: usize,
    pub(crate) host: Device,
    pub(crate) raw: StreamId,
    /// Recorded behind everything enqueued.
    tail: EventId,
    /// Not ordered with the legacy default stream.
    non_blocking: bool,
    pub(crate) is_legacy: bool,
    used: AtomicBool,
    pub(crate) capture: Mutex<Option<Arc<Capture>>>,
}

/// The streams every context has: the legacy default stream, by two names, and one a thread.
pub const LEGACY: [u64; 2] = [0, 1];
pub const PER_THREAD: u64 = 2;
/// The range of priorities: the least and the greatest, which is the lower number.
pub const PRIORITIES: (i32, i32) = (0, -5);
const NON_BLOCKING: u32 = 1;

impl Fake {
    pub fn create_stream(&'static self, flags: u32, _priority: i32) -> Answer<u64> {
        if flags & !NON_BLOCKING != 0 {
            return Err(misuse(
                "invalid_argument",
                format!("stream flags {flags:#x}"),
                INVALID_VALUE,
            ));
        }
        let gpu = self.current()?;
        let handle = self.state().number(Kind::Stream);
        let stream = self.new_stream(gpu, handle, flags & NON_BLOCKING != 0)?;
        self.state().streams.insert(handle, Arc::new(stream));
        Ok(handle)
    }

    fn new_stream(&self, gpu: usize, handle: u64, non_blocking: bool) -> Answer<Stream> {
        let host = self.host(gpu)?;
        let raw = driver_call(driver(&host).create_stream(Priority::Normal))?;
        let tail = driver_call(driver(&host).create_event(false))?;
        Ok(Stream {
            handle,
            gpu,
            raw,
            tail,
            non_blocking,
            is_legacy: LEGACY.contains(&handle),
            used: AtomicBool::new(false),
            capture: Mutex::default(),
            host,
        })
    }

    /// The stream of that handle.
    pub(crate) fn stream(&self, handle: u64) -> Answer<Arc<Stream>> {
        if LEGACY.contains(&handle) {
            let gpu = self.current()?;
            if let Some(legacy) = &self.state().gpus[gpu].legacy {
                return Ok(Arc::clone(legacy));
            }
            let legacy = Arc::new(self.new_stream(gpu, LEGACY[0], false)?);
            return Ok(Arc::clone(self.state().gpus[gpu].legacy.insert(legacy)));
        }
        if handle == PER_THREAD {
            let key = (self.current()?, std::thread::current().id());
            if let Some(own) = self.state().per_thread.get(&key) {
                return Ok(Arc::clone(own));
            }
            let own = Arc::new(self.new_stream(key.0, PER_THREAD, false)?);
            self.state().per_thread.insert(key, Arc::clone(&own));
            return Ok(own);
        }
        let state = self.state();
        if let Some(stream) = state.streams.get(&handle) {
            return Ok(Arc::clone(stream));
        }
        let (kind, words) = state.not_alive(Kind::Stream, handle);
        drop(state);
        Err(misuse(kind, words, INVALID_HANDLE))
    }

    /// The stream of that handle, for work, which needs the stream's own context to be current.
    pub(crate) fn stream_here(&self, handle: u64) -> Answer<Arc<Stream>> {
        let stream = self.stream(handle)?;
        let current = self.current()?;
        if stream.gpu == current {
            return Ok(stream);
        }
        let words = format!("a stream of device {} while {current} is current", stream.gpu);
        Err(misuse("wrong_context", words, INVALID_HANDLE))
    }

    pub fn destroy_stream(&self, handle: u64) -> Answer {
        if LEGACY.contains(&handle) || handle == PER_THREAD {
            return Err(misuse("invalid_argument", "a default stream", INVALID_HANDLE));
        }
        let stream = self.stream(handle)?;
        if stream.capture().is_some() {
            misuse("destroyed_while_capturing", "the capture is lost", 0);
            self.drop_capture(&stream);
        }
        {
            let mut state = self.state();
            state.streams.remove(&handle);
            state.given_up.retain(|stream| !stream.is_done().unwrap_or(true));
            state.given_up.push(Arc::clone(&stream));
        }
        // SAFETY: the handle is out of the table, so that no call uses the stream again. The
        // tail stays: a wait for it may be under way.
        driver_call(unsafe { driver(&stream.host).destroy_stream(stream.raw) })
    }

    pub fn synchronize_stream(&'static self, handle: u64) -> Answer {
        let stream = self.stream(handle)?;
        self.refuse_capturing(&stream)?;
        self.unsafe_in_capture()?;
        self.order_with_defaults(&stream)?;
        driver_call(driver(&stream.host).synchronize_stream(stream.raw))?;
        self.lost().map_or(Ok(()), Err)
    }

    pub fn query_stream(&self, handle: u64) -> Answer {
        let stream = self.stream(handle)?;
        self.refuse_capturing(&stream)?;
        self.unsafe_in_capture()?;
        if stream.is_done()? { Ok(()) } else { Err(NOT_READY) }
    }

    /// Waits for everything on the current device.
    pub fn synchronize_context(&self) -> Answer {
        let gpu = self.current()?;
        if let Some(capture) = self.any_capture(gpu) {
            capture.invalidate();
            return Err(misuse(
                "forbidden_while_capturing",
                "a stream of the context is capturing",
                crate::status::CAPTURE_UNSUPPORTED,
            ));
        }
        for stream in self.streams_of(gpu) {
            // Its tail, for the stream itself may be destroyed meanwhile.
            driver_call(driver(&stream.host).synchronize_event(stream.tail))?;
        }
        self.lost().map_or(Ok(()), Err)
    }

    /// Waits for everything on a device, but not for ever: a stream may stand where only the
    /// caller can let it on.
    pub(crate) fn wait_for_device(&self, gpu: usize) {
        let deadline = Instant::now() + Duration::from_millis(self.settings.longest_wait_ms);
        for stream in self.streams_of(gpu) {
            while !stream.is_done().unwrap_or(true) && self.lost().is_none() {
                if Instant::now() > deadline {
                    misuse("waits_for_blocked_stream", "the real call would never return", 0);
                    return;
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }

    fn streams_of(&self, gpu: usize) -> Vec<Arc<Stream>> {
        let state = self.state();
        let own = state.per_thread.iter().filter(|((of, _), _)| *of == gpu).map(|(_, own)| own);
        let legacy = state.gpus[gpu].legacy.iter();
        let made = state.streams.values().chain(&state.given_up);
        let made = made.filter(|stream| stream.gpu == gpu);
        made.chain(own).chain(legacy).map(Arc::clone).collect()
    }

    /// Enqueues `work`; while the stream captures, only counts it. Work does not run on a lost
    /// device.
    pub(crate) fn enqueue(
        &'static self,
        stream: &Arc<Stream>,
        work: impl FnOnce() + Send + 'static,
    ) -> Answer {
        if self.captured(stream)? {
            return Ok(());
        }
        self.order_with_defaults(stream)?;
        let work = move || {
            if self.lost().is_none() {
                work();
            }
        };
        driver_call(driver(&stream.host).launch_host(stream.raw, Box::new(work)))?;
        stream.moved_on()
    }

    /// Legacy rules: the default stream and blocking streams wait for each other.
    pub(crate) fn order_with_defaults(&self, stream: &Arc<Stream>) -> Answer {
        if stream.non_blocking {
            return Ok(());
        }
        let others: Vec<_> = if stream.is_legacy {
            self.streams_of(stream.gpu)
                .into_iter()
                .filter(|other| !other.non_blocking && !other.is_legacy)
                .collect()
        } else {
            self.state().gpus[stream.gpu].legacy.iter().map(Arc::clone).collect()
        };
        for other in others {
            if other.used.load(Ordering::Acquire) {
                driver_call(driver(&stream.host).wait_event(stream.raw, other.tail))?;
            }
        }
        Ok(())
    }

    /// Enqueues a function of the caller's.
    pub fn launch_host(
        &'static self,
        stream: u64,
        function: impl FnOnce() + Send + 'static,
    ) -> Answer {
        let stream = self.stream(stream)?;
        let call = call_name();
        self.enqueue(&stream, move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                in_host_function(function);
            }));
            if outcome.is_err() {
                misuse_of(self, call, "host_function_panicked", "it unwound into the driver");
            }
        })
    }
}

impl Stream {
    /// The stream has something new at its end.
    pub(crate) fn moved_on(&self) -> Answer {
        self.used.store(true, Ordering::Release);
        driver_call(driver(&self.host).record_event(self.tail, self.raw))
    }

    fn is_done(&self) -> Answer<bool> {
        driver_call(driver(&self.host).query_event(self.tail))
    }

    pub(crate) fn capture(&self) -> Option<Arc<Capture>> {
        crate::fake::lock(&self.capture).clone()
    }
}
