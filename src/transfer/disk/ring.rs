//! A kernel ring (`io_uring`) for reads, and nothing else of it.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::{IoUring, opcode, types};

/// A ring for a number of reads at once.
pub(super) struct Ring {
    ring: IoUring,
    /// Reads in the ring that were not reported yet.
    flying: usize,
}

impl Ring {
    /// A ring for `depth` reads.
    pub(super) fn new(depth: usize) -> io::Result<Self> {
        let entries = u32::try_from(depth.max(1).next_power_of_two()).unwrap_or(256);
        // Interrupts the reader less, where the kernel knows how; older ones refuse the flags.
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .build(entries)
            .or_else(|_| IoUring::new(entries))?;
        Ok(Self { ring, flying: 0 })
    }

    /// Puts a read of `len` bytes at `offset` of `file` into the ring; it begins with the next
    /// [`wait`](Self::wait) or [`submit`](Self::submit). False if the ring is full.
    ///
    /// # Safety
    /// `into` has `len` bytes that nobody else touches until the read is reported, and until
    /// then the file stays open.
    pub(super) unsafe fn push(
        &mut self,
        file: &File,
        offset: u64,
        into: *mut u8,
        len: u32,
        tag: u64,
    ) -> bool {
        let read = opcode::Read::new(types::Fd(file.as_raw_fd()), into, len)
            .offset(offset)
            .build()
            .user_data(tag);
        // SAFETY: the caller's promise.
        let pushed = unsafe { self.ring.submission().push(&read) }.is_ok();
        self.flying += usize::from(pushed);
        pushed
    }

    /// Lets what was put in begin.
    pub(super) fn submit(&mut self) {
        self.enter(0);
    }

    /// Blocks until a read is reported, if there is one.
    pub(super) fn wait(&mut self) {
        if self.flying > 0 {
            self.enter(1);
        }
    }

    fn enter(&mut self, want: usize) {
        for tries in 0u32.. {
            match self.ring.submit_and_wait(want) {
                Ok(_) => return,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => {
                    // Reads in the ring hold memory, so there is no way but to ask again.
                    if tries % 1000 == 0 {
                        tracing::warn!(%error, "the ring for reads does not answer");
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            if want > 0 && !self.ring.completion().is_empty() {
                return;
            }
        }
    }

    /// A read that is over: its tag and result.
    pub(super) fn next(&mut self) -> Option<(u64, io::Result<usize>)> {
        let entry = self.ring.completion().next()?;
        self.flying -= 1;
        let result = usize::try_from(entry.result())
            .map_err(|_| io::Error::from_raw_os_error(-entry.result()));
        Some((entry.user_data(), result))
    }

    /// Reads the first byte of a file, to see that reads work.
    pub(super) fn try_read(&mut self, file: &File) -> io::Result<usize> {
        let mut byte = [0];
        // SAFETY: the byte and the file live until the read is reported below.
        if !unsafe { self.push(file, 0, byte.as_mut_ptr(), 1, 0) } {
            return Err(io::Error::other("the ring is full"));
        }
        self.wait();
        loop {
            if let Some((_, result)) = self.next() {
                return result;
            }
            self.wait();
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel writes to memory until a read is reported.
        while self.flying > 0 {
            self.wait();
            while self.next().is_some() {}
        }
    }
}
