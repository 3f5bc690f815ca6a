//! Physical memory: taken, mapped somewhere else, and given back with its last mapping.

use riverbed::device::PageId;

use crate::device::{driver, driver_call};
use crate::entry::misuse;
use crate::fake::{Fake, Kind};
use crate::status::{Answer, INVALID_VALUE};

/// Physical memory.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) gpu: usize,
    pub(crate) bytes: u64,
    /// Its bytes, which are with the host device that has the address space.
    pub(crate) raw: PageId,
    /// What it takes of its own device's capacity.
    taken: PageId,
    pub(crate) mappings: u64,
    pub(crate) was_mapped: bool,
    /// Not released yet.
    pub(crate) held: bool,
}

impl Fake {
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
    pub(crate) fn drop_page_if_unused(&self, handle: u64) -> Answer {
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
}
