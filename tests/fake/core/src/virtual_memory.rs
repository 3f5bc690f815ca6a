//! Address space, physical memory, mappings, and who may touch them.

use std::collections::HashMap;

use riverbed::device::{Device, DevicePtr, PageId};

use crate::device::{driver, driver_call};
use crate::entry::misuse;
use crate::fake::{Fake, Kind};
use crate::status::{Answer, INVALID_DEVICE, INVALID_VALUE, NOT_SUPPORTED};

/// Address space.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) bytes: u64,
    /// What was reserved around it.
    around: (u64, u64),
    /// Physical memory given up while it was mapped here, kept until the space goes.
    kept: Vec<(usize, PageId)>,
}

/// Physical memory.
#[derive(Debug)]
pub(crate) struct Page {
    gpu: usize,
    bytes: u64,
    /// Its bytes, which are with the host device that has the address space.
    raw: PageId,
    /// What it takes of its own device's capacity.
    taken: PageId,
    mappings: u64,
    was_mapped: bool,
    /// Not released yet.
    pub(crate) held: bool,
}

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

const DEVICE_LOCATION: u32 = 1;
const PINNED_ALLOCATION: u32 = 1;
/// Memory of stale bytes shown again.
const STALE_BYTES: u64 = 4096;

impl Fake {
    fn with_vmm(&self) -> Answer {
        if self.settings.vmm { Ok(()) } else { Err(NOT_SUPPORTED) }
    }

    /// The host device that has the address space and what is mapped there, of all devices.
    fn space(&self) -> Answer<Device> {
        self.state().space.clone().ok_or(NOT_SUPPORTED)
    }

    fn bad(&self, words: String) -> u32 {
        misuse("invalid_argument", words, INVALID_VALUE)
    }

    /// Checks a size against the granularity.
    fn check_size(&self, what: &str, bytes: u64) -> Answer {
        if bytes == 0 || !bytes.is_multiple_of(self.settings.granularity) {
            let words = format!("{what} of {bytes} is off the granularity");
            return Err(misuse("off_granularity", words, INVALID_VALUE));
        }
        Ok(())
    }

    /// The granularity of mappings on a device.
    pub fn granularity(&self, kind: u32, location: (u32, i32), option: u32) -> Answer<usize> {
        self.with_vmm()?;
        self.check_location(kind, location)?;
        match option {
            0 => Ok(self.settings.granularity as usize),
            1 => Ok(self.settings.recommended_granularity as usize),
            _ => Err(self.bad(format!("granularity option {option}"))),
        }
    }

    fn check_location(&self, kind: u32, (location_type, id): (u32, i32)) -> Answer<usize> {
        if kind != PINNED_ALLOCATION || location_type != DEVICE_LOCATION {
            return Err(self.bad(format!("allocation type {kind}, location type {location_type}")));
        }
        self.gpu(id)
    }

    pub fn reserve(&self, bytes: u64, alignment: u64, flags: u64) -> Answer<u64> {
        self.with_vmm()?;
        self.unsafe_in_capture()?;
        self.check_size("a reservation", bytes)?;
        if flags != 0 || alignment != 0 && !alignment.is_power_of_two() {
            return Err(self.bad(format!("alignment {alignment}, flags {flags:#x}")));
        }
        let extra = if alignment > self.settings.granularity { alignment } else { 0 };
        let around_bytes = bytes.checked_add(extra).ok_or(crate::status::OUT_OF_MEMORY)?;
        let start = driver_call(driver(&self.space()?).reserve(around_bytes))?.0;
        let at = start.next_multiple_of(alignment.max(1));
        let reservation = Reservation { bytes, around: (start, around_bytes), kept: Vec::new() };
        self.state().reservations.insert(at, reservation);
        Ok(at)
    }

    pub fn release_reservation(&self, at: u64, bytes: u64) -> Answer {
        self.with_vmm()?;
        self.unsafe_in_capture()?;
        let mut state = self.state();
        let Some(reservation) = state.reservations.get(&at) else {
            drop(state);
            return Err(misuse(
                "invalid_free",
                format!("no reservation at {at:#x}"),
                INVALID_VALUE,
            ));
        };
        let whole = reservation.bytes;
        if whole != bytes {
            drop(state);
            let words = format!("{bytes} of a reservation of {whole}");
            return Err(misuse("invalid_free", words, INVALID_VALUE));
        }
        if state.mappings.range(at..at + bytes).next().is_some() {
            drop(state);
            return Err(misuse("reservation_in_use", "it has mappings", INVALID_VALUE));
        }
        let reservation = state.reservations.remove(&at);
        drop(state);
        let Some(Reservation { around: (start, around_bytes), kept, .. }) = reservation else {
            return Err(INVALID_VALUE);
        };
        for (gpu, page) in kept {
            // SAFETY: the handle was released before and nothing maps it.
            driver_call(unsafe { driver(&self.host(gpu)?).destroy_page(page) })?;
        }
        // SAFETY: it is out of the table, with nothing mapped.
        driver_call(unsafe { driver(&self.space()?).release(DevicePtr(start), around_bytes) })
    }

    pub fn create_page(
        &self,
        bytes: u64,
        kind: u32,
        location: (u32, i32),
        flags: u64,
    ) -> Answer<u64> {
        self.with_vmm()?;
        self.unsafe_in_capture()?;
        let gpu = self.check_location(kind, location)?;
        self.check_size("physical memory", bytes)?;
        if flags != 0 {
            return Err(self.bad(format!("flags {flags:#x}")));
        }
        let taken = driver_call(driver(&self.host(gpu)?).create_page(bytes))?;
        let raw = driver_call(driver(&self.space()?).create_page(bytes))?;
        let mut state = self.state();
        let handle = state.number(Kind::Page);
        let page = Page { gpu, bytes, raw, taken, mappings: 0, was_mapped: false, held: true };
        state.pages.insert(handle, page);
        Ok(handle)
    }

    pub fn release_page(&self, handle: u64) -> Answer {
        self.with_vmm()?;
        self.unsafe_in_capture()?;
        let mut state = self.state();
        let Some(page) = state.pages.get_mut(&handle).filter(|page| page.held) else {
            let (kind, words) = state.not_alive(Kind::Page, handle);
            drop(state);
            let kind = if kind == "destroyed_handle" { "double_free" } else { kind };
            return Err(misuse(kind, words, INVALID_VALUE));
        };
        page.held = false;
        drop(state);
        self.drop_page_if_unused(handle)
    }

    /// Gives physical memory back once it is neither held nor mapped.
    fn drop_page_if_unused(&self, handle: u64) -> Answer {
        let mut state = self.state();
        let unused = state.pages.get(&handle).is_some_and(|page| !page.held && page.mappings == 0);
        let Some(page) = unused.then(|| state.pages.remove(&handle)).flatten() else {
            return Ok(());
        };
        let keeper = state.reservations.values_mut().next();
        let kept = match keeper.filter(|_| self.settings.vmm_keeps && page.was_mapped) {
            Some(reservation) => {
                reservation.kept.push((page.gpu, page.taken));
                true
            }
            None => false,
        };
        drop(state);
        // SAFETY: nobody holds the handle and nothing maps it.
        driver_call(unsafe { driver(&self.space()?).destroy_page(page.raw) })?;
        if kept {
            return Ok(());
        }
        // SAFETY: as above.
        driver_call(unsafe { driver(&self.host(page.gpu)?).destroy_page(page.taken) })
    }

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
