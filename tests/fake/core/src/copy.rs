//! Copies and fills. Each is checked when it is enqueued and once more when it runs, so that
//! memory freed in between is told instead of touched.

use std::sync::Arc;

use crate::device::{driver, driver_call};
use crate::entry::{call_name, misuse, misuse_of};
use crate::fake::Fake;
use crate::range::{Owner, Range, Touch};
use crate::status::{Answer, INVALID_VALUE};
use crate::stream::Stream;

/// Which way a copy is said to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToDevice,
    ToHost,
    OnDevice,
    HostOnly,
    /// As the addresses say.
    Any,
}

/// One side of a copy of rows.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub at: u64,
    /// From one row to the next.
    pub pitch: u64,
}

/// A copy of rows.
#[derive(Debug, Clone, Copy)]
pub struct Copy2d {
    pub dst: Place,
    pub src: Place,
    pub width: u64,
    pub height: u64,
    pub direction: Direction,
}

impl Fake {
    pub fn copy(
        &'static self,
        dst: u64,
        src: u64,
        bytes: u64,
        direction: Direction,
        stream: u64,
    ) -> Answer {
        let stream = self.stream_here(stream)?;
        if bytes == 0 {
            return Ok(());
        }
        let (dst, src) = self.two_ranges(dst, src, bytes, direction, &stream)?;
        self.enqueue_copy(&stream, vec![(dst, src)])
    }

    pub fn copy_2d(&'static self, copy: &Copy2d, stream: u64) -> Answer {
        let stream = self.stream_here(stream)?;
        if copy.width == 0 || copy.height == 0 {
            return Ok(());
        }
        if copy.width > copy.dst.pitch || copy.width > copy.src.pitch {
            return Err(misuse("invalid_argument", "rows wider than their pitch", INVALID_VALUE));
        }
        let rows = (0..copy.height).map(|row| {
            let dst = copy.dst.at + row * copy.dst.pitch;
            let src = copy.src.at + row * copy.src.pitch;
            self.two_ranges(dst, src, copy.width, copy.direction, &stream)
        });
        let rows: Vec<_> = rows.collect::<Answer<_>>()?;
        self.enqueue_copy(&stream, rows)
    }

    /// Copies in any order. The null stream is refused, as by the real call.
    pub fn copy_batch(&'static self, copies: &[(u64, u64, u64)], stream: u64) -> Answer {
        if stream == 0 {
            return Err(misuse("invalid_argument", "a batch on the null stream", INVALID_VALUE));
        }
        let stream = self.stream_here(stream)?;
        let ranges = copies
            .iter()
            .filter(|copy| copy.2 > 0)
            .map(|&(dst, src, bytes)| self.two_ranges(dst, src, bytes, Direction::Any, &stream));
        let ranges: Vec<_> = ranges.collect::<Answer<_>>()?;
        // The real driver may take any order; the last first is the one least expected.
        self.enqueue_copy(&stream, ranges.into_iter().rev().collect())
    }

    pub fn fill(&'static self, dst: u64, value: u8, bytes: u64, stream: u64) -> Answer {
        let stream = self.stream_here(stream)?;
        if bytes == 0 {
            return Ok(());
        }
        let dst = self.range(dst, bytes, stream.gpu, Touch::Write)?;
        if dst.owner == Owner::Pageable {
            let words = "a fill of memory that is not the driver's";
            return Err(misuse("outside_live_memory", words, INVALID_VALUE));
        }
        self.check_pool_order(&stream, &dst)?;
        let call = call_name();
        self.enqueue(&stream, move || {
            self.touch(call, &[&dst], || {
                // SAFETY: the range is alive while `touch` runs this.
                unsafe { std::ptr::write_bytes(dst.at as *mut u8, value, dst.bytes as usize) };
            });
        })
    }

    fn two_ranges(
        &self,
        dst: u64,
        src: u64,
        bytes: u64,
        direction: Direction,
        stream: &Arc<Stream>,
    ) -> Answer<(Range, Range)> {
        let src = self.range(src, bytes, stream.gpu, Touch::Read)?;
        let dst = self.range(dst, bytes, stream.gpu, Touch::Write)?;
        let as_said = match direction {
            Direction::ToDevice => dst.gpu.is_some() && src.gpu.is_none(),
            Direction::ToHost => dst.gpu.is_none() && src.gpu.is_some(),
            Direction::OnDevice => dst.gpu.is_some() && src.gpu.is_some(),
            Direction::HostOnly => dst.gpu.is_none() && src.gpu.is_none(),
            Direction::Any => true,
        };
        if !as_said {
            let words = format!("{:#x} to {:#x} is not {direction:?}", src.at, dst.at);
            return Err(misuse("wrong_direction", words, INVALID_VALUE));
        }
        if src.at < dst.at + bytes && dst.at < src.at + bytes {
            return Err(misuse("overlapping_copy", "source and destination", INVALID_VALUE));
        }
        for range in [&src, &dst] {
            if range.owner == Owner::Pageable {
                misuse("pageable_copy", format!("{:#x} is not pinned", range.at), 0);
            }
            self.check_pool_order(stream, range)?;
        }
        Ok((dst, src))
    }

    fn enqueue_copy(&'static self, stream: &Arc<Stream>, copies: Vec<(Range, Range)>) -> Answer {
        let call = call_name();
        // What is not pinned is taken, and filled, before the call returns.
        let fills = copies.iter().any(|(dst, _)| dst.owner == Owner::Pageable);
        let copies: Vec<(Range, Source)> = copies
            .into_iter()
            .map(|(dst, src)| {
                let src = match src.owner {
                    Owner::Pageable => Source::Taken(taken(&src)),
                    _ => Source::There(src),
                };
                (dst, src)
            })
            .collect();
        let enqueued = self.enqueue(stream, move || {
            for (dst, src) in &copies {
                let (from, ranges): (*const u8, Vec<&Range>) = match src {
                    Source::There(src) => (src.at as *const u8, vec![dst, src]),
                    Source::Taken(bytes) => (bytes.as_ptr(), vec![dst]),
                };
                self.touch(call, &ranges, || {
                    // SAFETY: both are alive while `touch` runs this, and do not overlap.
                    unsafe {
                        std::ptr::copy_nonoverlapping(from, dst.at as *mut u8, dst.bytes as usize);
                    }
                });
            }
        });
        if fills && stream.capture().is_none() {
            enqueued?;
            return driver_call(driver(&stream.host).synchronize_stream(stream.raw));
        }
        enqueued
    }

    /// Runs `work` while nothing is freed, if all the ranges are still what they were.
    pub(crate) fn touch(&self, call: &'static str, ranges: &[&Range], work: impl FnOnce()) {
        let _touching = self.touching();
        match ranges.iter().find(|range| !self.is_alive(range)) {
            None => work(),
            Some(range) => {
                let words = format!("{:#x} was freed before the work on it ran", range.at);
                misuse_of(self, call, "freed_in_flight", words);
            }
        }
    }
}

/// Where a copy's bytes are.
enum Source {
    There(Range),
    Taken(Vec<u8>),
}

fn taken(src: &Range) -> Vec<u8> {
    // SAFETY: the caller of an asynchronous copy vouches for its source while the call runs.
    unsafe { std::slice::from_raw_parts(src.at as *const u8, src.bytes as usize) }.to_vec()
}
