//! Stream capture: work of capturing streams is counted and never run, and what would break a
//! real capture breaks this one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use crate::entry::misuse;
use crate::fake::{Fake, Kind, lock};
use crate::status::{
    Answer, CAPTURE_IMPLICIT, CAPTURE_INVALIDATED, CAPTURE_ISOLATION, CAPTURE_UNJOINED,
    CAPTURE_UNMATCHED, CAPTURE_UNSUPPORTED, CAPTURE_WRONG_THREAD, ILLEGAL_STATE, INVALID_HANDLE,
    INVALID_VALUE,
};
use crate::stream::Stream;

/// A capture under way.
#[derive(Debug)]
pub(crate) struct Capture {
    gpu: usize,
    origin: u64,
    mode: Mode,
    thread: ThreadId,
    invalid: AtomicBool,
    nodes: Mutex<usize>,
    /// Streams that joined, each with whether the origin waits for its last work.
    forked: Mutex<BTreeMap<u64, bool>>,
}

/// How careful a thread must be while somebody captures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    fn of(number: u32) -> Answer<Self> {
        match number {
            0 => Ok(Self::Global),
            1 => Ok(Self::ThreadLocal),
            2 => Ok(Self::Relaxed),
            _ => Err(misuse("invalid_argument", format!("capture mode {number}"), INVALID_VALUE)),
        }
    }
}

thread_local! {
    static THREAD_MODE: std::cell::Cell<Mode> = const { std::cell::Cell::new(Mode::Global) };
}

impl Capture {
    pub(crate) fn invalidate(&self) {
        self.invalid.store(true, Ordering::Release);
    }

    fn is_invalid(&self) -> bool {
        self.invalid.load(Ordering::Acquire)
    }
}

impl Fake {
    /// Sets the thread's mode; gives the one before.
    pub fn exchange_capture_mode(&self, mode: u32) -> Answer<u32> {
        Ok(THREAD_MODE.replace(Mode::of(mode)?) as u32)
    }

    pub fn begin_capture(&self, stream: u64, mode: u32) -> Answer {
        let mode = Mode::of(mode)?;
        let stream = self.stream(stream)?;
        if stream.is_legacy {
            return Err(misuse(
                "invalid_argument",
                "the legacy stream cannot capture",
                CAPTURE_UNSUPPORTED,
            ));
        }
        let mut slot = lock(&stream.capture);
        if slot.is_some() {
            return Err(misuse("capture_state", "the stream captures already", ILLEGAL_STATE));
        }
        let capture = Arc::new(Capture {
            gpu: stream.gpu,
            origin: stream.handle,
            mode,
            thread: std::thread::current().id(),
            invalid: AtomicBool::new(false),
            nodes: Mutex::default(),
            forked: Mutex::default(),
        });
        *slot = Some(Arc::clone(&capture));
        self.state().captures.push(capture);
        Ok(())
    }

    /// Ends a capture; gives the graph's handle, and the status, which are told apart.
    pub fn end_capture(&self, stream: u64) -> Answer<u64> {
        let stream = self.stream(stream)?;
        let Some(capture) = stream.capture() else {
            return Err(misuse("capture_state", "the stream does not capture", ILLEGAL_STATE));
        };
        if capture.origin != stream.handle {
            capture.invalidate();
            return Err(misuse("capture_state", "not the stream it began in", CAPTURE_UNMATCHED));
        }
        if capture.mode != Mode::Relaxed && capture.thread != std::thread::current().id() {
            return Err(misuse(
                "capture_state",
                "not the thread it began in",
                CAPTURE_WRONG_THREAD,
            ));
        }
        let unjoined = lock(&capture.forked).values().any(|joined| !joined);
        self.drop_capture(&stream);
        if capture.is_invalid() {
            return Err(CAPTURE_INVALIDATED);
        }
        if unjoined {
            return Err(misuse("capture_state", "a stream was not joined", CAPTURE_UNJOINED));
        }
        let nodes = *lock(&capture.nodes);
        let mut state = self.state();
        let graph = state.number(Kind::Graph);
        state.graphs.insert(graph, nodes);
        Ok(graph)
    }

    pub(crate) fn drop_capture(&self, stream: &Stream) {
        let Some(capture) = lock(&stream.capture).take() else { return };
        let mut state = self.state();
        state.captures.retain(|other| !Arc::ptr_eq(other, &capture));
        for forked in lock(&capture.forked).keys() {
            if let Some(stream) = state.streams.get(forked) {
                lock(&stream.capture).take();
            }
        }
    }

    pub fn destroy_graph(&self, graph: u64) -> Answer {
        let mut state = self.state();
        if state.graphs.remove(&graph).is_some() {
            return Ok(());
        }
        let (kind, words) = state.not_alive(Kind::Graph, graph);
        drop(state);
        Err(misuse(kind, words, INVALID_HANDLE))
    }

    /// 0 for a stream that does not capture, 1 for one that does, 2 when the capture is broken.
    pub fn capture_status(&self, stream: u64) -> Answer<u32> {
        let stream = self.stream(stream)?;
        if stream.is_legacy && self.any_capture(stream.gpu).is_some_and(|c| c.mode != Mode::Relaxed)
        {
            return Err(CAPTURE_IMPLICIT);
        }
        Ok(match stream.capture() {
            None => 0,
            Some(capture) if capture.is_invalid() => 2,
            Some(_) => 1,
        })
    }

    /// Whether work for `stream` goes into a capture instead.
    pub(crate) fn captured(&self, stream: &Stream) -> Answer<bool> {
        let Some(capture) = stream.capture() else {
            if stream.is_legacy
                && let Some(capture) = self.any_capture(stream.gpu)
            {
                capture.invalidate();
                let words = "work on the legacy stream while another captures";
                return Err(misuse("forbidden_while_capturing", words, CAPTURE_IMPLICIT));
            }
            return Ok(false);
        };
        if capture.is_invalid() {
            return Err(CAPTURE_INVALIDATED);
        }
        *lock(&capture.nodes) += 1;
        if let Some(joined) = lock(&capture.forked).get_mut(&stream.handle) {
            *joined = false;
        }
        Ok(true)
    }

    /// A stream waits for an event that may be of a capture; whether the wait went into one.
    pub(crate) fn joined(
        &self,
        stream: &Arc<Stream>,
        event: Option<(Arc<Capture>, u64)>,
    ) -> Answer<bool> {
        match (stream.capture(), event) {
            (None, None) => Ok(false),
            (Some(capture), None) => {
                capture.invalidate();
                let words = "a capturing stream waits for an event outside";
                Err(misuse("capture_state", words, CAPTURE_ISOLATION))
            }
            (Some(own), Some((capture, from))) if Arc::ptr_eq(&own, &capture) => {
                if let Some(joined) = lock(&capture.forked).get_mut(&from) {
                    *joined = true;
                }
                Ok(true)
            }
            (None, Some((capture, _)))
                if self.state().captures.iter().any(|c| Arc::ptr_eq(c, &capture)) =>
            {
                lock(&capture.forked).insert(stream.handle, false);
                *lock(&stream.capture) = Some(capture);
                Ok(true)
            }
            (_, Some((capture, _))) => {
                capture.invalidate();
                Err(misuse("capture_state", "an event of another capture", CAPTURE_ISOLATION))
            }
        }
    }

    pub(crate) fn any_capture(&self, gpu: usize) -> Option<Arc<Capture>> {
        self.state().captures.iter().find(|capture| capture.gpu == gpu).map(Arc::clone)
    }

    /// A stream that captures cannot be waited for.
    pub(crate) fn refuse_capturing(&self, stream: &Stream) -> Answer {
        let Some(capture) = stream.capture() else { return Ok(()) };
        capture.invalidate();
        Err(misuse("forbidden_while_capturing", "the stream captures", CAPTURE_UNSUPPORTED))
    }

    /// Refuses a call that may not be made while a capture is under way that this thread must
    /// mind, and breaks that capture.
    pub(crate) fn unsafe_in_capture(&self) -> Answer {
        let mode = THREAD_MODE.get();
        if mode == Mode::Relaxed {
            return Ok(());
        }
        let here = std::thread::current().id();
        let state = self.state();
        let minded: Vec<Arc<Capture>> = state
            .captures
            .iter()
            .filter(|capture| {
                let own = capture.thread == here && capture.mode != Mode::Relaxed;
                own || mode == Mode::Global && capture.mode == Mode::Global
            })
            .map(Arc::clone)
            .collect();
        drop(state);
        if minded.is_empty() {
            return Ok(());
        }
        minded.iter().for_each(|capture| capture.invalidate());
        let words = "a capture is under way and the thread is not relaxed";
        Err(misuse("forbidden_while_capturing", words, CAPTURE_UNSUPPORTED))
    }
}
