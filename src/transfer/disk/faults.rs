//! Failures of reads on request, for tests: the seam where every backend's results pass.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::lock;

/// What a read is to end in.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The system's error of this number.
    Errno(i32),
    /// No more than so many bytes, although there are more.
    Short(usize),
}

/// A failure of reads that cover a byte.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadFault {
    /// Number of the file.
    pub file: usize,
    /// Offset of the byte.
    pub byte: u64,
    /// How they end.
    pub kind: FaultKind,
    /// How many reads end so.
    pub times: u32,
}

/// The failures to come of one file.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// So that reads of files without any take no lock.
    any: AtomicBool,
    list: Mutex<Vec<ReadFault>>,
}

impl Faults {
    pub(super) fn add(&self, fault: ReadFault) {
        lock(&self.list).push(fault);
        self.any.store(true, Ordering::Release);
    }

    /// What a read of `len` bytes at `offset` that ended in `result` ends in.
    pub(super) fn strike(
        &self,
        offset: u64,
        len: u64,
        result: io::Result<usize>,
    ) -> io::Result<usize> {
        if !self.any.load(Ordering::Acquire) {
            return result;
        }
        let mut list = lock(&self.list);
        let covers = |fault: &ReadFault| (offset..offset + len).contains(&fault.byte);
        let Some(fault) = list.iter_mut().find(|fault| fault.times > 0 && covers(fault)) else {
            return result;
        };
        fault.times -= 1;
        match fault.kind {
            FaultKind::Errno(number) => Err(io::Error::from_raw_os_error(number)),
            FaultKind::Short(bytes) => result.map(|got| got.min(bytes)),
        }
    }
}
