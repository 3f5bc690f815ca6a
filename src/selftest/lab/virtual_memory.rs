//! Address space, pages and mappings.
#![allow(unsafe_code)]

use super::{Found, Lab};
use crate::base::lock;
use crate::device::{DevicePtr, PageId};
use crate::selftest::finding::{Finding, ensure};

impl Lab {
    /// Reserves room for `pages` pages of the device's granularity.
    pub(in crate::selftest) fn reserve(&self, pages: u64) -> Found<DevicePtr> {
        let bytes = pages * self.page_bytes();
        let at = self.driver().reserve(bytes)?;
        lock(&self.held).reserved.push((at, bytes));
        Ok(at)
    }

    /// Gives address space back where nothing is mapped.
    pub(in crate::selftest) fn release(&self, at: DevicePtr) -> Found {
        let held = lock(&self.held);
        let found = held.reserved.iter().find(|(start, _)| *start == at).copied();
        let (_, bytes) = found.ok_or_else(|| Finding::new(format!("{at:?} is not reserved")))?;
        let inside = |(start, _): &(DevicePtr, u64)| (at.0..at.0 + bytes).contains(&start.0);
        ensure!(!held.mapped.iter().any(inside), "something is mapped at {at:?}");
        drop(held);
        // SAFETY: exactly what `reserve` gave, not released yet.
        unsafe { self.driver().release(at, bytes) }?;
        lock(&self.held).reserved.retain(|(start, _)| *start != at);
        Ok(())
    }

    /// Makes physical memory of `pages` times the granularity.
    pub(in crate::selftest) fn create_page(&self, pages: u64) -> Found<PageId> {
        let bytes = pages * self.page_bytes();
        let page = self.driver().create_page(bytes)?;
        lock(&self.held).pages.push((page, bytes));
        Ok(page)
    }

    /// Gives physical memory back, once its last mapping is gone.
    pub(in crate::selftest) fn destroy_page(&self, page: PageId) -> Found {
        let held = lock(&self.held).pages.iter().any(|(other, _)| *other == page);
        ensure!(held, "{page:?} is not held");
        // SAFETY: not destroyed yet, and off the list with it.
        unsafe { self.driver().destroy_page(page) }?;
        lock(&self.held).pages.retain(|(other, _)| *other != page);
        Ok(())
    }

    /// Maps pages one after the other.
    pub(in crate::selftest) fn map(&self, at: DevicePtr, pages: &[PageId]) -> Found {
        let held = lock(&self.held);
        let mut mappings = Vec::new();
        let mut end = at;
        for page in pages {
            let found = held.pages.iter().find(|(other, _)| other == page);
            let (_, bytes) = found.ok_or_else(|| Finding::new(format!("{page:?} is not held")))?;
            mappings.push((end, *bytes));
            end = end.offset(*bytes);
        }
        drop(held);
        self.driver().map_many(at, pages)?;
        let mut held = lock(&self.held);
        for (at, bytes) in mappings {
            held.mapped.push((at, bytes));
            held.usable.add(at.0, bytes);
        }
        Ok(())
    }

    /// Unmaps what lies in `pages` times the granularity from `at`, which nothing in flight
    /// touches.
    pub(in crate::selftest) fn unmap(&self, at: DevicePtr, pages: u64) -> Found {
        let bytes = pages * self.page_bytes();
        ensure!(lock(&self.held).usable.covers(at.0, bytes), "{at:?} is not all mapped");
        // SAFETY: the check synchronized what touches the range.
        unsafe { self.driver().unmap(at, bytes) }?;
        let mut held = lock(&self.held);
        let inside = |(start, _): &(DevicePtr, u64)| (at.0..at.0 + bytes).contains(&start.0);
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut held.mapped).into_iter().partition(inside);
        held.mapped = kept;
        for (start, _) in gone {
            held.usable.remove(start.0);
        }
        Ok(())
    }
}
