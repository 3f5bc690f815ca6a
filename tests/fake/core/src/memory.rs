//! Device memory taken and freed at once. Small requests share pages, as with the real driver,
//! so that their addresses are aligned to no more than 512 bytes.

use std::collections::BTreeMap;

use riverbed::device::DevicePtr;

use crate::Vendor;
use crate::device::{driver, driver_call};
use crate::entry::misuse;
use crate::fake::{Fake, Kind, State};
use crate::status::{Answer, INVALID_VALUE};

/// Memory somebody holds.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) gpu: usize,
    pub(crate) bytes: u64,
    /// The pool it is of; 0 for none.
    pub(crate) pool: u64,
    pub(crate) serial: u64,
    pub(crate) signal: bool,
}

const PAGE_BYTES: u64 = 2 << 20;
const UNIT_BYTES: u64 = 512;
/// From here on a request has pages of its own.
const LARGE_BYTES: u64 = 1 << 20;

/// Pages shared by small requests: of each, what is taken, by address.
#[derive(Debug, Default)]
pub(crate) struct SmallPages(BTreeMap<u64, BTreeMap<u64, u64>>);

impl SmallPages {
    /// A place in a page that has one.
    fn place(&mut self, bytes: u64) -> Option<u64> {
        for (&page, taken) in &mut self.0 {
            let mut free_from = page;
            for (&at, &bytes_taken) in taken.iter() {
                if at - free_from >= bytes {
                    break;
                }
                free_from = at + bytes_taken;
            }
            if page + PAGE_BYTES - free_from >= bytes {
                taken.insert(free_from, bytes);
                return Some(free_from);
            }
        }
        None
    }

    fn add(&mut self, page: u64) {
        // The start is never handed out: few addresses of a shared page are aligned to it.
        self.0.insert(page, BTreeMap::from([(page, UNIT_BYTES)]));
    }

    pub(crate) fn hold(&self, at: u64) -> bool {
        self.0.range(..=at).next_back().is_some_and(|(page, _)| at - page < PAGE_BYTES)
    }

    /// Frees a place; gives the page when it was the last.
    fn free(&mut self, at: u64) -> Option<u64> {
        let (&page, taken) = self.0.range_mut(..=at).next_back()?;
        taken.remove(&at);
        if taken.len() > 1 {
            return None;
        }
        self.0.remove(&page);
        Some(page)
    }
}

impl Fake {
    /// Takes device memory of the current device.
    pub fn alloc(&self, bytes: u64) -> Answer<u64> {
        self.alloc_for(bytes, false)
    }

    /// Takes memory that streams can wait on (HIP).
    pub fn alloc_signal(&self, bytes: u64) -> Answer<u64> {
        if bytes != 8 {
            return Err(misuse("invalid_argument", "signal memory is 8 bytes", INVALID_VALUE));
        }
        self.alloc_for(bytes, true)
    }

    fn alloc_for(&self, bytes: u64, signal: bool) -> Answer<u64> {
        self.unsafe_in_capture()?;
        if bytes == 0 {
            return Err(misuse("invalid_argument", "an allocation of nothing", INVALID_VALUE));
        }
        let gpu = self.current()?;
        let host = self.host(gpu)?;
        let mut state = self.state();
        let units = bytes.saturating_add(UNIT_BYTES - 1) / UNIT_BYTES * UNIT_BYTES;
        let at = if units < LARGE_BYTES {
            match state.small[gpu].place(units) {
                Some(at) => at,
                None => {
                    let page = driver_call(driver(&host).alloc(PAGE_BYTES))?;
                    state.small[gpu].add(page.0);
                    state.small[gpu].place(units).ok_or(INVALID_VALUE)?
                }
            }
        } else {
            driver_call(driver(&host).alloc(bytes))?.0
        };
        let serial = state.number(Kind::Serial);
        state.blocks.insert(at, Block { gpu, bytes, pool: 0, serial, signal });
        state.freed.remove(&at);
        drop(state);
        self.scramble(at, if signal { 0 } else { bytes });
        if signal {
            // SAFETY: the eight bytes were taken just now.
            unsafe { (at as *mut u64).write(0) };
        }
        Ok(at)
    }

    /// Frees memory after waiting for the device, as the real call does.
    pub fn free(&self, at: u64) -> Answer {
        if at == 0 && self.vendor == Vendor::Hip {
            return Ok(());
        }
        self.unsafe_in_capture()?;
        let gpu = self.check_block(at)?;
        if self.settings.free_waits {
            self.wait_for_device(gpu);
        }
        self.give_up_block(at)
    }

    /// The device of the block that begins at `at`.
    pub(crate) fn check_block(&self, at: u64) -> Answer<usize> {
        let state = self.state();
        if let Some(block) = state.blocks.get(&at) {
            return Ok(block.gpu);
        }
        let (kind, words) = state.not_a_start(at);
        drop(state);
        Err(misuse(kind, words, INVALID_VALUE))
    }

    /// Frees a block at once.
    pub(crate) fn give_up_block(&self, at: u64) -> Answer {
        let _removing = self.removing();
        let mut state = self.state();
        let Some(block) = state.blocks.remove(&at) else { return Err(INVALID_VALUE) };
        state.freed.insert(at);
        let host = state.gpus[block.gpu].device.clone();
        let page = if block.pool == 0 && block.bytes.next_multiple_of(UNIT_BYTES) < LARGE_BYTES {
            state.small[block.gpu].free(at)
        } else {
            Some(at)
        };
        drop(state);
        match page {
            // SAFETY: the block is out of the table, and streams touch memory only under
            // `touching`, after asking the table.
            Some(page) => driver_call(unsafe { driver(&host).free(DevicePtr(page)) }),
            None => Ok(()),
        }
    }

    /// Fills fresh memory with what nobody expects.
    pub(crate) fn scramble(&self, at: u64, bytes: u64) {
        let Some(garbage) = self.settings.garbage else { return };
        // Of large memory only the ends, so that no more is committed than is used.
        let most = 16 << 20;
        let (head, tail) = (bytes.min(most / 2), bytes.min(most / 2));
        // SAFETY: the caller has just been given these bytes and nobody else knows of them.
        unsafe {
            std::ptr::write_bytes(at as *mut u8, garbage, head as usize);
            std::ptr::write_bytes((at + bytes - tail) as *mut u8, garbage, tail as usize);
        }
    }
}

impl State {
    /// What to say of an address where no block begins.
    pub(crate) fn not_a_start(&self, at: u64) -> (&'static str, String) {
        let inside = self
            .blocks
            .range(..=at)
            .next_back()
            .is_some_and(|(start, block)| start + block.bytes > at);
        if self.freed.contains(&at) && !inside {
            ("double_free", format!("{at:#x} was freed before"))
        } else if inside {
            ("invalid_free", format!("{at:#x} lies inside an allocation"))
        } else if self.pinned.contains_key(&at) || self.reservations.contains_key(&at) {
            ("invalid_free", format!("{at:#x} is memory of another kind"))
        } else {
            ("invalid_free", format!("{at:#x} was never allocated"))
        }
    }
}
