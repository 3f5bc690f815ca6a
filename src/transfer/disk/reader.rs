//! Reader threads: each takes pieces from the board and sees them read, many at once in a ring
//! of its own or one after the other, so that nobody who computes or enqueues waits for a disk.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use slab::Slab;

use super::bounce::Bounce;
use super::file::OpenFile;
use super::options::{DirectReads, DiskBackend, DiskOptions, DiskReport};
use super::ring::Ring;
use crate::base::{Error, FileError, Result};
use crate::device::cast;
use crate::transfer::board::{Board, Taken, Work};
use crate::transfer::files::Files;
use crate::transfer::home::HomeMemory;
use crate::transfer::plan::{Into, Narrowing, Piece};

/// Starts the readers of `board`. They end when it is closed.
///
/// # Errors
/// The system refuses a thread or a ring.
pub(in crate::transfer) fn start(
    board: &Arc<Board>,
    files: Files,
    report: &DiskReport,
    options: DiskOptions,
) -> Result<()> {
    let files = Arc::new(files);
    let depth = report.depth.div_ceil(report.threads.max(1));
    for _ in 0..report.threads.max(1) {
        let ring = match report.backend {
            DiskBackend::IoUring => {
                Some(Ring::new(depth).map_err(|error| refused(report, &error))?)
            }
            _ => None,
        };
        let mut reader = Reader {
            board: Arc::clone(board),
            files: Arc::clone(&files),
            direct: options.direct,
            depth,
            flights: Slab::with_capacity(depth),
            ring,
            bounces: (0..depth).map(|_| Bounce::new()).collect(),
        };
        // Never joined: they end when the board is closed and nothing is under way.
        std::thread::Builder::new()
            .name("riverbed-reader".into())
            .spawn(move || reader.run())
            .map_err(|error| refused(report, &error))?;
    }
    Ok(())
}

fn refused(report: &DiskReport, error: &io::Error) -> Error {
    Error::invalid(
        "reader threads",
        report.threads,
        format!("the system refuses: {error}; ask for fewer threads, or let backend be threads"),
    )
}

/// A piece under way.
struct Flight {
    work: Work,
    how: How,
    bounce: Option<Bounce>,
}

/// By which way a piece is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// The page cache has it.
    Cached,
    /// Past the page cache.
    Direct,
    /// Through the page cache, which is not to keep it.
    Through,
}

struct Reader {
    board: Arc<Board>,
    files: Arc<Files>,
    direct: DirectReads,
    depth: usize,
    flights: Slab<Flight>,
    /// Dropped before the buffers it may write to, if the thread panics.
    ring: Option<Ring>,
    /// As many as pieces may be under way, less those that have one.
    bounces: Vec<Bounce>,
}

impl Reader {
    fn run(&mut self) {
        loop {
            self.report_arrived();
            let taken = match self.flights.len() < self.depth {
                true => self.board.take(self.flights.is_empty()),
                false => Taken::Nothing,
            };
            match taken {
                Taken::Work(work) => self.begin(work),
                Taken::End if self.flights.is_empty() => return,
                Taken::Nothing | Taken::End => {
                    if let Some(ring) = &mut self.ring {
                        ring.wait();
                    }
                }
            }
        }
    }

    /// Begins a piece; one that needs no waiting is done here.
    fn begin(&mut self, work: Work) {
        if copy_from_ram(&work) {
            return self.board.finish(&work, Ok(()));
        }
        let files = Arc::clone(&self.files);
        let piece = &work.cut().pieces[work.piece];
        let Some(file) = files.0.get(piece.file) else {
            let error = FileError::new("", format!("there is no file number {}", piece.file));
            return self.board.finish(&work, Err(error.into()));
        };
        let how = self.choose(file, piece);
        let mut bounce = match piece.into {
            Into::Place(_) => None,
            Into::Bounce(_) => Some(self.bounces.pop().unwrap_or_else(Bounce::new)),
        };
        let into = place(&work, piece, bounce.as_mut());
        let (offset, len) = (piece.offset, piece.len);
        let handle = match how {
            How::Direct => file.direct().unwrap_or(file.buffered()),
            How::Cached | How::Through => file.buffered(),
        };
        if let Some(ring) = self.ring.as_mut().filter(|_| how != How::Cached) {
            let entry = self.flights.vacant_entry();
            // SAFETY: the memory is this piece's alone: of a bounce buffer that the flight
            // keeps, or of a landing, which the work keeps and which is the readers' until the
            // piece is reported. The files outlive the ring. A piece is shorter than 4 GiB.
            let pushed = unsafe { ring.push(handle, offset, into, len as u32, entry.key() as u64) };
            if pushed {
                entry.insert(Flight { work, how, bounce });
                return ring.submit();
            }
        }
        // SAFETY: as above; the memory is initialised.
        let memory = unsafe { std::slice::from_raw_parts_mut(into, len as usize) };
        let result = handle.read_at(memory, offset);
        self.end(Flight { work, how, bounce }, result);
    }

    /// How a piece is best read.
    fn choose(&self, file: &OpenFile, piece: &Piece) -> How {
        let has_direct = self.direct != DirectReads::Off && file.direct().is_some();
        if has_direct && self.direct == DirectReads::On {
            How::Direct
        } else if file.is_cached(piece.offset, piece.needed.end - piece.offset) {
            How::Cached
        } else if has_direct {
            How::Direct
        } else {
            How::Through
        }
    }

    /// Reports what the ring has done.
    fn report_arrived(&mut self) {
        while let Some((key, result)) = self.ring.as_mut().and_then(Ring::next) {
            if let Some(flight) = self.flights.try_remove(key as usize) {
                self.end(flight, result);
            }
        }
    }

    /// Ends a piece that was read, as far as `result` says.
    fn end(&mut self, mut flight: Flight, result: io::Result<usize>) {
        let files = Arc::clone(&self.files);
        let piece = &flight.work.cut().pieces[flight.work.piece];
        let outcome = match files.0.get(piece.file) {
            Some(file) => {
                let into = place(&flight.work, piece, flight.bounce.as_mut());
                // SAFETY: as in `begin`, and no read is under way any more.
                let memory = unsafe { std::slice::from_raw_parts_mut(into, piece.len as usize) };
                complete(file, piece, flight.how, memory, result)
            }
            None => Ok(()),
        };
        if let (Ok(()), Some(bounce)) = (&outcome, &flight.bounce) {
            scatter(&flight.work, piece, bounce.bytes());
        }
        self.bounces.extend(flight.bounce.take());
        self.board.finish(&flight.work, outcome.map_err(Error::from));
    }
}

/// Fills a slot of the window from memory that has the bytes; false where there is none.
fn copy_from_ram(work: &Work) -> bool {
    let Some((memory, chunk)) = &work.ram else { return false };
    if let Some(chunk) = work.cut().chunks.get(*chunk) {
        // SAFETY: the memory holds the whole unit of which this is a chunk, and nobody writes it
        // any more. The landing has room for the chunk and is the readers' until the piece is
        // reported.
        unsafe {
            let (from, to) = (memory.at(chunk.start), work.landing.at(chunk.at));
            std::ptr::copy_nonoverlapping(from, to, chunk.len as usize);
        }
    }
    true
}

/// Keeps a chunk that was read to a slot of the window in a home, where it is the caller's to fill.
pub(in crate::transfer) fn keep(memory: &HomeMemory, work: &Work, chunk: usize) {
    let Some(chunk) = work.cut().chunks.get(chunk) else { return };
    // SAFETY: the slot holds the chunk and is the readers' until its job is closed. The memory has
    // room for the unit of which this is a chunk, and nobody else reads or writes that part of it.
    unsafe {
        let (from, to) = (work.landing.at(chunk.at), memory.at(chunk.start));
        std::ptr::copy_nonoverlapping(from, to, chunk.len as usize);
    }
}

/// Where a piece is read to.
fn place(work: &Work, piece: &Piece, bounce: Option<&mut Bounce>) -> *mut u8 {
    match (&piece.into, bounce) {
        (&Into::Place(offset), _) => work.landing.at(offset),
        (Into::Bounce(_), Some(bounce)) => bounce.as_mut_ptr(),
        (Into::Bounce(_), None) => std::ptr::null_mut(),
    }
}

/// Sees to it that all bytes needed are there, or tells why not.
fn complete(
    file: &OpenFile,
    piece: &Piece,
    how: How,
    memory: &mut [u8],
    result: io::Result<usize>,
) -> Result<(), FileError> {
    let mut through = how == How::Through;
    let got = match file.outcome(piece.offset, piece.len, result) {
        Ok(got) => got,
        Err(error) if file.is_passing(&error, how == How::Direct) => {
            through |= how == How::Direct;
            0
        }
        Err(error) => {
            return Err(file.failed(piece.needed.start, &piece.needed, &error));
        }
    };
    let filled = file.fill(piece.offset, memory, got, piece.needed.clone());
    if through {
        file.drop_cached(piece.offset, piece.len);
    }
    filled.and_then(|()| file.check(piece.needed.start))
}

/// Copies what was read together to its places, or casts it on the way.
fn scatter(work: &Work, piece: &Piece, bytes: &[u8]) {
    let Into::Bounce(scatters) = &piece.into else { return };
    for part in work.cut().scatters.get(scatters.clone()).unwrap_or_default() {
        let Some(from) = bytes.get(part.from as usize..(part.from + part.len) as usize) else {
            continue;
        };
        let to = work.landing.at(part.to);
        // SAFETY: the plan lays parts of one landing apart from each other and inside it, also
        // those that become shorter, and the landing is the readers' until the piece is reported.
        unsafe {
            match part.cast {
                None => std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()),
                Some(narrowing) => {
                    let Narrowing { from: wide, to: narrow } = narrowing;
                    let count = from.len() / wide.size_bytes() as usize;
                    let len = count * narrow.size_bytes() as usize;
                    let to = std::slice::from_raw_parts_mut(to, len);
                    cast(from, to, wide, narrow, narrowing.saturates());
                }
            }
        }
    }
}
