//! One walk through a trace.

use super::clock;
use super::target::{Handle, Target};
use super::trace::{Op, OpKind, Trace};
use crate::base::{Error, format_bytes};

/// How many operations run between two looks at [`Watch`].
const CHUNK: usize = 1 << 16;

/// Sees how far a replay is, and may end it.
pub trait Watch: Sync {
    /// `ops` more operations were carried out; `false` ends the replay.
    fn went_on(&self, ops: u64) -> bool;
}

/// Sees nothing and ends nothing.
impl Watch for () {
    fn went_on(&self, _: u64) -> bool {
        true
    }
}

/// Why a replay did not complete.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Stop {
    /// An operation failed.
    #[error(
        "event {event} ({}) of {events} failed, with {live} block(s) of {} live: {error}",
        shown(op), format_bytes(*live_bytes)
    )]
    Failed {
        /// The operation's number, from 0.
        event: usize,
        /// How many there are.
        events: usize,
        /// The operation.
        op: Op,
        /// Blocks live before it.
        live: usize,
        /// Their requested bytes.
        live_bytes: u64,
        /// What the allocator says.
        error: Box<Error>,
    },
    /// The [`Watch`] ended it.
    #[error("interrupted")]
    Interrupted,
    /// The device or the allocator cannot be made.
    #[error(transparent)]
    Setup(Box<Error>),
    /// The allocator's books do not add up: a bug in it.
    #[error("the allocator's books are wrong after the replay: {0}")]
    Books(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Setup(Box::new(error))
    }
}

fn shown(op: &Op) -> String {
    let verb = match op.kind {
        OpKind::Alloc => "allocate",
        OpKind::Free | OpKind::FreeElsewhere => "free",
    };
    format!("{verb} {} bytes, {}, on stream {}", op.bytes, format_bytes(op.bytes), op.stream)
}

/// Which streams the operations run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Streams {
    /// Those of the trace.
    Own,
    /// All on the target's first.
    First,
}

/// Replays `trace` once; gives the thread's time in nanoseconds. `live` has a place for each
/// slot and is empty before and after: what is still live at the end, or where it stops, is
/// freed outside the measured time.
pub(super) fn once(
    target: &Target,
    trace: &Trace,
    live: &mut [Handle],
    streams: Streams,
    watch: &dyn Watch,
) -> Result<f64, Stop> {
    let start = clock::thread_ns();
    let outcome = walk(target, trace, live, streams, watch);
    let ns = clock::thread_ns() - start;
    clear(target, live);
    outcome.map(|()| ns)
}

fn walk(
    target: &Target,
    trace: &Trace,
    live: &mut [Handle],
    streams: Streams,
    watch: &dyn Watch,
) -> Result<(), Stop> {
    for (number, chunk) in trace.ops().chunks(CHUNK).enumerate() {
        for (at, op) in chunk.iter().enumerate() {
            if let Err(error) = step(target, op, live, streams) {
                return Err(failed(trace, number * CHUNK + at, error));
            }
        }
        if !watch.went_on(chunk.len() as u64) {
            return Err(Stop::Interrupted);
        }
    }
    Ok(())
}

/// Carries out one operation.
#[inline]
pub(super) fn step(
    target: &Target,
    op: &Op,
    live: &mut [Handle],
    streams: Streams,
) -> Result<(), Error> {
    let place = &mut live[op.slot as usize];
    let stream = if streams == Streams::Own { usize::from(op.stream) } else { 0 };
    match op.kind {
        OpKind::Alloc => *place = target.alloc(op.bytes, stream)?,
        OpKind::FreeElsewhere if streams == Streams::Own => {
            target.free_elsewhere(std::mem::take(place), stream)?;
        }
        OpKind::Free | OpKind::FreeElsewhere => target.free(std::mem::take(place))?,
    }
    Ok(())
}

/// Says where and in what state a replay failed.
#[cold]
pub(super) fn failed(trace: &Trace, event: usize, error: Error) -> Stop {
    let (mut live, mut live_bytes) = (0, 0);
    for op in &trace.ops()[..event] {
        match op.kind {
            OpKind::Alloc => (live, live_bytes) = (live + 1, live_bytes + op.bytes),
            _ => (live, live_bytes) = (live - 1, live_bytes - op.bytes),
        }
    }
    let (events, op) = (trace.ops().len(), trace.ops()[event]);
    Stop::Failed { event, events, op, live, live_bytes, error: Box::new(error) }
}

/// Frees whatever is live.
pub(super) fn clear(target: &Target, live: &mut [Handle]) {
    for handle in live {
        // A block that cannot be freed is a broken allocator; the replay's own error or the
        // check of the books tells of it.
        let _ = target.free(std::mem::take(handle));
    }
}
