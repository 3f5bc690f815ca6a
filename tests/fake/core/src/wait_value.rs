//! Streams that wait for a value in memory, or write one.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::Vendor;
use crate::device::{driver, driver_call};
use crate::entry::{call_name, misuse};
use crate::fake::Fake;
use crate::range::{Owner, Range, Touch};
use crate::status::{Answer, INVALID_VALUE, NOT_SUPPORTED};

/// When a value is waited for no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The difference is not negative, so that counters may wrap.
    GreaterOrEqual,
    Equal,
    And,
    Nor,
}

const FLUSH: u32 = 1 << 30;

impl Comparison {
    /// By the flags of a wait.
    pub fn of(flags: u32) -> Answer<Self> {
        match flags & !FLUSH {
            0 => Ok(Self::GreaterOrEqual),
            1 => Ok(Self::Equal),
            2 => Ok(Self::And),
            3 => Ok(Self::Nor),
            _ => Err(misuse("invalid_argument", format!("wait flags {flags:#x}"), INVALID_VALUE)),
        }
    }

    fn holds(self, there: u64, wanted: u64, bits: u32) -> bool {
        let shift = 64 - bits;
        match self {
            Self::GreaterOrEqual => (there.wrapping_sub(wanted) << shift) as i64 >= 0,
            Self::Equal => there == wanted,
            Self::And => there & wanted != 0,
            Self::Nor => (!(there | wanted)) << shift != 0,
        }
    }
}

impl Fake {
    /// Makes a stream wait until the `bits` at `at`, masked, compare with `value` as wanted.
    pub fn wait_value(
        &'static self,
        stream: u64,
        (at, bits): (u64, u32),
        value: u64,
        mask: u64,
        comparison: Comparison,
    ) -> Answer {
        let stream = self.stream_here(stream)?;
        let word = self.word(at, bits, stream.gpu, Touch::Read)?;
        if self.vendor == Vendor::Hip && !word.signal {
            misuse("not_signal_memory", format!("{at:#x} is no signal memory"), 0);
        }
        // What is ordered through memory is out of the host device's sight.
        let gate = self.state().gpus[stream.gpu].open_gate;
        driver_call(driver(&stream.host).wait_gate(stream.raw, gate, 0))?;
        let call = call_name();
        self.enqueue(&stream, move || {
            let mut passed = false;
            while !passed && self.lost().is_none() {
                let mut alive = false;
                self.touch(call, &[&word], || {
                    alive = true;
                    passed = comparison.holds(load(&word) & mask, value, bits);
                });
                if !alive {
                    return;
                }
                if !passed {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        })
    }

    /// Makes a stream write a value.
    pub fn write_value(
        &'static self,
        stream: u64,
        (at, bits): (u64, u32),
        value: u64,
        flags: u32,
    ) -> Answer {
        if flags > 1 {
            return Err(misuse(
                "invalid_argument",
                format!("write flags {flags:#x}"),
                INVALID_VALUE,
            ));
        }
        let stream = self.stream_here(stream)?;
        let word = self.word(at, bits, stream.gpu, Touch::Write)?;
        let call = call_name();
        self.enqueue(&stream, move || self.touch(call, &[&word], || store(&word, value)))
    }

    fn word(&self, at: u64, bits: u32, gpu: usize, touch: Touch) -> Answer<Range> {
        if !self.settings.wait_value {
            return Err(NOT_SUPPORTED);
        }
        let bytes = u64::from(bits / 8);
        if !at.is_multiple_of(bytes) {
            return Err(misuse(
                "invalid_argument",
                format!("{at:#x} is not aligned"),
                INVALID_VALUE,
            ));
        }
        let word = self.range(at, bytes, gpu, touch)?;
        if word.owner == Owner::Pageable {
            let words = format!("{at:#x} is no memory of the driver");
            return Err(misuse("outside_live_memory", words, INVALID_VALUE));
        }
        Ok(word)
    }
}

fn load(word: &Range) -> u64 {
    // SAFETY: the word is aligned, and alive while `touch` runs this; hosts and streams share it
    // by atomic accesses.
    unsafe {
        match word.bytes {
            4 => u64::from((*(word.at as *const AtomicU32)).load(Ordering::Acquire)),
            _ => (*(word.at as *const AtomicU64)).load(Ordering::Acquire),
        }
    }
}

fn store(word: &Range, value: u64) {
    // SAFETY: as in `load`.
    unsafe {
        match word.bytes {
            4 => (*(word.at as *const AtomicU32)).store(value as u32, Ordering::Release),
            _ => (*(word.at as *const AtomicU64)).store(value, Ordering::Release),
        }
    }
}
