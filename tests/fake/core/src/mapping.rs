//! Mappings: what is at which address, and who may touch it.

use std::collections::HashMap;

use riverbed::device::DevicePtr;

use crate::device::{driver, driver_call};
use crate::entry::misuse;
use crate::fake::{Fake, Kind};
use crate::status::{Answer, INVALID_DEVICE, INVALID_VALUE, NOT_SUPPORTED};
use crate::virtual_memory::DEVICE_LOCATION;

/// Physical memory at an address.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(crate) bytes: u64,
    pub(crate) gpu: usize,
    pub(crate) serial: u64,
    page: u64,
    /// By device: 0 none, 1 read, 3 read and write.
    pub(crate) access: HashMap<usize, u32>,
}

/// Access to give: to whom, and how much.
#[derive(Debug, Clone, Copy)]
pub struct AccessTo {
    /// 1 for a device.
    pub location_type: u32,
    pub id: i32,
    pub flags: u32,
}

/// Memory of stale bytes shown again.
const STALE_BYTES: u64 = 4096;

impl Fake {
    pub fn map(&self, at: u64, bytes: u64, offset: u64, handle: u64, flags: u64) -> Answer {
        self.with_vmm()?;
        self.unsafe_in_capture()?;
        self.check_size("a mapping", bytes)?;
        if offset != 0 || flags != 0 || !at.is_multiple_of(self.settings.granularity) {
            return Err(self.bad(format!("address {at:#x}, offset {offset}, flags {flags:#x}")));
        }
        let mut state = self.state();
        let Some(page) = state.pages.get(&handle).filter(|page| page.held) else {
            let (kind, words) = state.not_alive(Kind::Page, handle);
            drop(state);
            return Err(misuse(kind, words, INVALID_VALUE));
        };
        let (gpu, raw, whole, fresh) = (page.gpu, page.raw, page.bytes, !page.was_mapped);
        let reserved = state.reservations.range(..=at).next_back();
        let reserved = reserved.is_some_and(|(start, r)| at + bytes <= start + r.bytes);
        let taken = state.mappings.range(..at + bytes).next_back();
        let taken = taken.is_some_and(|(start, mapping)| start + mapping.bytes > at);
        if whole != bytes || !reserved || taken {
            drop(state);
            let words = match (reserved, taken) {
                (false, _) => format!("{at:#x} is not reserved"),
                (_, true) => format!("something is mapped at {at:#x}"),
                _ => format!("{bytes} of a handle of {whole}: the fake maps whole ones only"),
            };
            return Err(misuse("invalid_map", words, INVALID_VALUE));
        }
        let space = state.space.clone().ok_or(NOT_SUPPORTED)?;
        driver_call(driver(&space).map(DevicePtr(at), raw))?;
        let serial = state.number(Kind::Serial);
        let mapping = Mapping { bytes, gpu, serial, page: handle, access: HashMap::new() };
        state.mappings.insert(at, mapping);
        if let Some(page) = state.pages.get_mut(&handle) {
            page.mappings += 1;
            page.was_mapped = true;
        }
        let stale = state.gpus[gpu].stale.get(&at).cloned();
        drop(state);
        if fresh {
            self.scramble(at, bytes);
        }
        if let Some(stale) = stale.filter(|_| self.settings.vmm_stale) {
            // SAFETY: the range was mapped just now and is at least that long.
            unsafe { std::ptr::copy_nonoverlapping(stale.as_ptr(), at as *mut u8, stale.len()) };
        }
        Ok(())
    }

    pub fn unmap(&self, at: u64, bytes: u64) -> Answer {
        self.with_vmm()?;
        self.unsafe_in_capture()?;
        self.check_size("a range to unmap", bytes)?;
        let inside = self.whole_mappings(at, bytes, "unmap")?;
        let _removing = self.removing();
        let mut state = self.state();
        let mut pages = Vec::new();
        for start in inside {
            let Some(mapping) = state.mappings.remove(&start) else { continue };
            let space = state.space.clone().ok_or(NOT_SUPPORTED)?;
            if self.settings.vmm_stale {
                // SAFETY: the range is mapped until the call below.
                let shown =
                    unsafe { std::slice::from_raw_parts(start as *const u8, STALE_BYTES as usize) };
                let shown = shown.to_vec();
                state.gpus[mapping.gpu].stale.insert(start, shown);
            }
            // SAFETY: the mapping is out of the table, and streams touch memory only under
            // `touching`, after asking the table.
            driver_call(unsafe { driver(&space).unmap(DevicePtr(start), mapping.bytes) })?;
            if let Some(page) = state.pages.get_mut(&mapping.page) {
                page.mappings -= 1;
            }
            pages.push(mapping.page);
        }
        drop(state);
        pages.into_iter().try_for_each(|page| self.drop_page_if_unused(page))
    }

    /// The mappings that make up a range; it may cut none and leave no hole.
    fn whole_mappings(&self, at: u64, bytes: u64, doing: &str) -> Answer<Vec<u64>> {
        let state = self.state();
        let mut covered = at;
        let mut starts = Vec::new();
        while covered < at + bytes {
            let Some(mapping) = state.mappings.get(&covered) else { break };
            starts.push(covered);
            covered += mapping.bytes;
        }
        let cut =
            state.mappings.range(..=covered).next_back().is_some_and(|(&start, mapping)| {
                start < covered && start + mapping.bytes > covered
            });
        drop(state);
        if covered == at + bytes {
            return Ok(starts);
        }
        let (kind, words) = if cut || covered > at + bytes {
            ("partial_mapping", format!("{doing} of a part of a mapping, at {covered:#x}"))
        } else {
            ("not_mapped", format!("{doing} where nothing is mapped, at {covered:#x}"))
        };
        Err(misuse(kind, words, INVALID_VALUE))
    }

    pub fn set_access(&self, at: u64, bytes: u64, to: &[AccessTo]) -> Answer {
        self.with_vmm()?;
        self.unsafe_in_capture()?;
        self.check_size("a range of access", bytes)?;
        let mut devices = Vec::new();
        for access in to {
            if access.location_type != DEVICE_LOCATION || ![0, 1, 3].contains(&access.flags) {
                let words =
                    format!("location type {}, flags {}", access.location_type, access.flags);
                return Err(self.bad(words));
            }
            let gpu = usize::try_from(access.id).ok().filter(|&gpu| gpu < self.settings.devices);
            devices.push((gpu.ok_or(INVALID_DEVICE)?, access.flags));
        }
        if devices.is_empty() {
            return Err(self.bad("access for nobody".into()));
        }
        let starts = self.whole_mappings(at, bytes, "set access")?;
        if !self.settings.access_many && starts.len() > 1 {
            return Err(INVALID_VALUE);
        }
        let mut state = self.state();
        for start in starts {
            if let Some(mapping) = state.mappings.get_mut(&start) {
                mapping.access.extend(devices.iter().copied());
            }
        }
        Ok(())
    }
}
