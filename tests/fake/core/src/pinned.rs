//! Pinned host memory, and the caller's own that is registered.

use std::ptr::NonNull;

use crate::Vendor;
use crate::device::{driver, driver_call};
use crate::entry::misuse;
use crate::fake::{Fake, Kind};
use crate::status::{
    ALREADY_REGISTERED, Answer, INVALID_VALUE, NOT_REGISTERED, NOT_SUPPORTED, OUT_OF_MEMORY,
};

/// Host memory devices may touch.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(crate) bytes: u64,
    pub(crate) gpu: usize,
    pub(crate) registered: bool,
    pub(crate) read_only: bool,
    pub(crate) serial: u64,
    /// How far its address on the device is from the host's.
    pub(crate) alias_offset: u64,
}

/// Out of the way of every address the system hands out.
const ALIAS_OFFSET: u64 = 1 << 56;
const READ_ONLY: u32 = 8;

impl Fake {
    pub fn alloc_pinned(&self, bytes: u64, flags: u32) -> Answer<u64> {
        self.unsafe_in_capture()?;
        let known = match self.vendor {
            Vendor::Cuda => 0x7,
            Vendor::Hip => 0xe000_001f,
        };
        if flags & !known != 0 || bytes == 0 {
            let words = format!("{bytes} bytes, flags {flags:#x}");
            return Err(misuse("invalid_argument", words, INVALID_VALUE));
        }
        let gpu = self.current()?;
        let at = driver_call(driver(&self.host(gpu)?).alloc_pinned(bytes))?.as_ptr() as u64;
        self.add_pinned(at, bytes, gpu, false, false);
        self.scramble(at, bytes);
        Ok(at)
    }

    fn add_pinned(&self, at: u64, bytes: u64, gpu: usize, registered: bool, read_only: bool) {
        let mut state = self.state();
        let serial = state.number(Kind::Serial);
        let differs = registered && !self.settings.same_host_pointer;
        let alias_offset = if differs { ALIAS_OFFSET } else { 0 };
        let pinned = Pinned { bytes, gpu, registered, read_only, serial, alias_offset };
        state.pinned.insert(at, pinned);
        state.freed.remove(&at);
    }

    pub fn free_pinned(&self, at: u64) -> Answer {
        if at == 0 && self.vendor == Vendor::Hip {
            return Ok(());
        }
        self.unsafe_in_capture()?;
        let gpu = self.check_pinned(at, false, INVALID_VALUE)?;
        if self.settings.free_waits {
            self.wait_for_device(gpu);
        }
        let _removing = self.removing();
        let mut state = self.state();
        state.pinned.remove(&at);
        state.freed.insert(at);
        drop(state);
        let start = NonNull::new(at as *mut u8).ok_or(INVALID_VALUE)?;
        // SAFETY: the range is out of the table, and streams touch memory only under
        // `touching`, after asking the table.
        driver_call(unsafe { driver(&self.host(gpu)?).free_pinned(start) })
    }

    pub fn register(&self, at: u64, bytes: u64, flags: u32) -> Answer {
        self.unsafe_in_capture()?;
        if !self.settings.host_register {
            return Err(NOT_SUPPORTED);
        }
        let known = 0xf;
        if at == 0 || bytes == 0 || flags & !known != 0 {
            let words = format!("{bytes} bytes at {at:#x}, flags {flags:#x}");
            return Err(misuse("invalid_argument", words, INVALID_VALUE));
        }
        let read_only = self.vendor == Vendor::Cuda && flags & READ_ONLY != 0;
        if read_only && !self.settings.read_only_register {
            return Err(NOT_SUPPORTED);
        }
        let end = at.checked_add(bytes).ok_or(OUT_OF_MEMORY)?;
        let overlaps = self
            .state()
            .pinned
            .range(..end)
            .next_back()
            .is_some_and(|(start, pinned)| start + pinned.bytes > at);
        if overlaps {
            return Err(misuse("already_registered", format!("{at:#x}"), ALREADY_REGISTERED));
        }
        let gpu = self.current()?;
        self.add_pinned(at, bytes, gpu, true, read_only);
        Ok(())
    }

    pub fn unregister(&self, at: u64) -> Answer {
        self.unsafe_in_capture()?;
        self.check_pinned(at, true, NOT_REGISTERED)?;
        let _removing = self.removing();
        self.state().pinned.remove(&at);
        Ok(())
    }

    fn check_pinned(&self, at: u64, registered: bool, status: u32) -> Answer<usize> {
        let state = self.state();
        if let Some(pinned) = state.pinned.get(&at).filter(|p| p.registered == registered) {
            return Ok(pinned.gpu);
        }
        let (kind, words) = state.not_a_start(at);
        drop(state);
        Err(misuse(kind, words, status))
    }

    /// The address on the device of pinned memory.
    pub fn device_address(&self, at: u64, flags: u32) -> Answer<u64> {
        let state = self.state();
        let found = state.pinned.range(..=at).next_back();
        let found = found.filter(|(start, pinned)| *start + pinned.bytes > at && flags == 0);
        if let Some((_, pinned)) = found {
            return Ok(at + pinned.alias_offset);
        }
        drop(state);
        Err(misuse("invalid_argument", format!("{at:#x} is not pinned"), INVALID_VALUE))
    }
}
