//! Virtual memory: address space, pages, and which is mapped where.

use super::abi::{ACCESS_READ_WRITE, AccessDescription, AllocationProperties, Location};
use super::calls::Calls;
use super::driver::GpuDriver;
use super::symbols::Refusal;
use super::vendor::Vendor;
use crate::base::{DeviceError, lock};
use crate::device::calls::Call;
use crate::device::contract::{DevicePtr, DeviceResult, PageId};

impl<V: Vendor> GpuDriver<V> {
    /// [`Driver::reserve`](crate::device::Driver::reserve).
    pub(super) fn reserve_addresses(&self, bytes: u64) -> DeviceResult<DevicePtr> {
        let mut at = 0;
        // SAFETY: the pointer is to a live number.
        self.run_virtual(Call::Reserve, |calls| unsafe {
            calls.address_reserve(&raw mut at, bytes as usize, 0, 0, 0)
        })?;
        Ok(DevicePtr(at))
    }

    /// [`Driver::release`](crate::device::Driver::release).
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn release_addresses(&self, at: DevicePtr, bytes: u64) -> DeviceResult<()> {
        if lock(&self.mappings).inside(at.0, bytes).is_ok() {
            return self.refused(Call::Release, DeviceError::INVALID_VALUE);
        }
        // SAFETY: the caller's; nothing is mapped there.
        self.run_virtual(Call::Release, |calls| unsafe { calls.address_free(at.0, bytes as usize) })
    }

    /// [`Driver::create_page`](crate::device::Driver::create_page).
    pub(super) fn make_page(&self, bytes: u64) -> DeviceResult<PageId> {
        let properties = self.properties();
        let mut page = 0;
        // SAFETY: pointers to live values.
        self.run_virtual(Call::CreatePage, |calls| unsafe {
            calls.page_create(&raw mut page, bytes as usize, &raw const properties, 0)
        })?;
        lock(&self.mappings).created(page, bytes);
        // SAFETY: the page was made just now and lives until `destroy_page`.
        Ok(unsafe { PageId::from_raw(page) })
    }

    /// [`Driver::destroy_page`](crate::device::Driver::destroy_page).
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn give_page_up(&self, page: PageId) -> DeviceResult<()> {
        let mut mappings = lock(&self.mappings);
        // SAFETY: the caller's. Mappings keep the memory until the last is gone.
        self.run_virtual(Call::DestroyPage, |calls| unsafe { calls.page_release(page.raw()) })?;
        mappings.destroyed(page.raw());
        Ok(())
    }

    /// [`Driver::map_many`](crate::device::Driver::map_many).
    pub(super) fn map_pages(&self, at: DevicePtr, pages: &[PageId]) -> DeviceResult<()> {
        let mut mappings = lock(&self.mappings);
        let places = mappings.places(at.0, pages.iter().map(|page| page.raw()));
        let places = match places {
            Ok(places) => places,
            Err(status) => return self.refused(Call::Map, status),
        };
        let mut done = 0;
        let outcome = places.iter().try_for_each(|&(at, page, bytes)| {
            // SAFETY: the page is live, and nothing is mapped there by these books.
            self.run_virtual(Call::Map, |calls| unsafe {
                calls.page_map(at, bytes as usize, 0, page, 0)
            })?;
            done += 1;
            Ok(())
        });
        // SAFETY: all places were mapped just now.
        let allow = |calls: &Calls| unsafe { self.allow(calls, &places) };
        let outcome = outcome.and_then(|()| self.run_virtual(Call::SetAccess, allow));
        for &(at, _, bytes) in &places[..done] {
            match &outcome {
                Ok(()) => mappings.mapped(at, bytes),
                Err(_) => {
                    // SAFETY: mapped just now, and touched by nobody yet.
                    let undone =
                        self.card.apart(|calls| unsafe { calls.page_unmap(at, bytes as usize) });
                    if let Err(refusal) = undone {
                        tracing::warn!(?refusal, "a mapping that is of no use stays");
                    }
                }
            }
        }
        outcome
    }

    /// [`Driver::unmap`](crate::device::Driver::unmap).
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn unmap_pages(&self, at: DevicePtr, bytes: u64) -> DeviceResult<()> {
        let mut mappings = lock(&self.mappings);
        let inside = match mappings.inside(at.0, bytes) {
            Ok(inside) => inside,
            Err(status) => return self.refused(Call::Unmap, status),
        };
        self.run_virtual(Call::Unmap, |calls| {
            for (at, bytes) in inside {
                // SAFETY: a whole mapping; the caller promised that nothing touches it.
                unsafe { calls.page_unmap(at, bytes as usize) }?;
                mappings.unmapped(at);
            }
            Ok(())
        })
    }

    /// A call of virtual memory.
    fn run_virtual<T>(
        &self,
        call: Call,
        work: impl FnOnce(&Calls) -> Result<T, Refusal>,
    ) -> DeviceResult<T> {
        match self.info.virtual_memory {
            true => self.run_apart(call, work),
            false => self.refused(call, DeviceError::NOT_SUPPORTED),
        }
    }

    fn properties(&self) -> AllocationProperties {
        AllocationProperties::on_device(self.card.context.device)
    }

    /// Makes a range with pages mapped readable and writable.
    ///
    /// # Safety
    /// The places are mapped.
    unsafe fn allow(&self, calls: &Calls, places: &[(u64, u64, u64)]) -> Result<(), Refusal> {
        let access = AccessDescription {
            location: Location::device(self.card.context.device),
            flags: ACCESS_READ_WRITE,
        };
        let whole = places.first().zip(places.last());
        let range = whole.map(|(first, last)| (first.0, last.0 + last.2 - first.0));
        let ranges: Vec<(u64, u64)> = match (V::ACCESS_BY_RANGE, range) {
            (true, Some(range)) => vec![range],
            _ => places.iter().map(|&(at, _, bytes)| (at, bytes)).collect(),
        };
        for (at, bytes) in ranges {
            // SAFETY: the caller's; the description is live.
            unsafe { calls.page_access(at, bytes as usize, &raw const access, 1) }?;
        }
        Ok(())
    }
}
