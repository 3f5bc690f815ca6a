//! A stretch of memory that shows a second time right behind its end, so that what goes round it
//! is contiguous wherever it begins. Its pages count once against the limit.
//!
//! Both views show the same bytes. Work that uses one view is ordered after work that used the
//! other by streams and events, as all work on one byte must be; devices promise no more.
#![allow(unsafe_code)]

use std::sync::{Arc, Mutex};

use super::allocator::{Allocator, Inner};
use crate::base::{Error, Result, lock};
use crate::device::{DevicePtr, DeviceResult, Driver, Event, PageId, Stream, reap};

/// About how many pages there are: making one costs some 0.2 ms on a GPU, whatever its size.
const PAGES: u64 = 256;

/// Memory of an allocator whose end is followed by its start. Never moves. Dropping it never
/// blocks: the memory goes back once the streams that were [noted](Self::record_use) are done.
#[derive(Debug)]
pub(crate) struct MirroredSpace {
    pages: Pages,
    uses: Mutex<Vec<Stream>>,
}

/// The pages, with no care for who uses them.
#[derive(Debug)]
struct Pages {
    inner: Arc<Inner>,
    base: DevicePtr,
    /// Addresses from the base on: for both views of the largest size.
    address_bytes: u64,
    /// Pages with their sizes in bytes, in their order.
    pages: Vec<(PageId, u64)>,
    /// Of the pages.
    len_bytes: u64,
    /// Whether the second view is there.
    is_mirrored: bool,
}

impl Allocator {
    /// Reserves addresses for a mirrored space as large as the device or the limit, with nothing
    /// behind them yet. `None` on a device without virtual memory, and under `policy:mempool`,
    /// where the driver's pool keeps the limit.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn mirrored_space(&self) -> Result<Option<MirroredSpace>> {
        let inner = Arc::clone(self.inner());
        let info = inner.shared.device.info();
        if !info.virtual_memory || inner.shared.driver_pool.is_some() {
            return Ok(None);
        }
        let page_bytes = info.granularity_bytes;
        let most_bytes = inner.shared.most_bytes() / page_bytes * page_bytes;
        let address_bytes = most_bytes.max(page_bytes).saturating_mul(2);
        let base = inner.shared.device.driver().reserve(address_bytes)?;
        let (pages, len_bytes, is_mirrored) = (Vec::new(), 0, false);
        let pages = Pages { inner, base, address_bytes, pages, len_bytes, is_mirrored };
        Ok(Some(MirroredSpace { pages, uses: Mutex::default() }))
    }
}

impl MirroredSpace {
    /// Where it begins.
    pub(crate) fn ptr(&self) -> DevicePtr {
        self.pages.base
    }

    /// Its size in bytes; so much is to be seen again behind it.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.pages.len_bytes
    }

    /// Whether the second view is there. Without it the space is of no use.
    pub(crate) fn is_mirrored(&self) -> bool {
        self.pages.is_mirrored
    }

    /// Notes that work on `stream` uses the memory.
    ///
    /// # Errors
    /// A stream of another device.
    pub(crate) fn record_use(&self, stream: &Stream) -> Result<()> {
        self.pages.inner.shared.device.same_as(stream.device(), "stream")?;
        let mut uses = lock(&self.uses);
        if !uses.contains(stream) {
            uses.push(stream.clone());
        }
        Ok(())
    }

    /// Makes what is missing for `bytes` in all, rounded down to whole pages, and maps nothing yet.
    /// `None`, and nothing is made, if limit or device say "full"; nothing is given
    /// up for it.
    ///
    /// # Errors
    /// What else the driver says.
    pub(crate) fn prepare(&mut self, bytes: u64) -> Result<Option<Growth>> {
        let Pages { inner, len_bytes, address_bytes, .. } = &self.pages;
        let shared = &inner.shared;
        let page_bytes = shared.device.info().granularity_bytes;
        let most_bytes = address_bytes / 2;
        let wanted = bytes.min(most_bytes).saturating_sub(*len_bytes) / page_bytes * page_bytes;
        if !shared.promise(wanted) {
            return Ok(None);
        }
        let step = (bytes / PAGES).next_multiple_of(page_bytes).max(page_bytes);
        let mut growth = Growth { inner: Arc::clone(inner), made: Vec::new(), left_bytes: wanted };
        while growth.left_bytes > 0 {
            let bytes = step.min(growth.left_bytes);
            match shared.device.driver().create_page(bytes) {
                Ok(page) => {
                    growth.made.push((page, bytes));
                    growth.left_bytes -= bytes;
                    shared.paged(bytes);
                }
                Err(error) if error.is_out_of_memory() => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(growth))
    }

    /// Adds what was prepared at the end.
    ///
    /// # Errors
    /// What the driver says: it has the size it had, or nothing can be done with it any more.
    ///
    /// # Safety
    /// Nothing in flight touches the second view, and nobody uses its addresses from now on.
    pub(crate) unsafe fn grow(&mut self, mut growth: Growth) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.pages.unmirror() }?;
        let made: Vec<PageId> = growth.made.iter().map(|&(page, _)| page).collect();
        let mapped = match made.is_empty() {
            true => Ok(()),
            false => self.pages.driver().map_many(self.pages.end(), &made),
        };
        if mapped.is_ok() {
            self.pages.len_bytes += growth.len_bytes();
            self.pages.pages.append(&mut growth.made);
        }
        self.pages.mirror()?;
        Ok(mapped?)
    }

    /// The size it would be shrunk to: `bytes` rounded down to whole pages of its own, or up where
    /// that is less than `least_bytes`.
    pub(crate) fn shrunk_bytes(&self, bytes: u64, least_bytes: u64) -> u64 {
        let mut end = 0;
        for (_, page_bytes) in &self.pages.pages {
            let next = end + page_bytes;
            if next > bytes && end >= least_bytes {
                break;
            }
            end = next;
        }
        end
    }

    /// Gives the pages behind `bytes`, of [`shrunk_bytes`](Self::shrunk_bytes), back to the device.
    /// What the driver refuses to take stays counted, and out of use.
    ///
    /// # Errors
    /// As [`grow`](Self::grow).
    ///
    /// # Safety
    /// Nothing in flight touches the second view or what lies behind `bytes`, and nobody uses
    /// these addresses from now on.
    pub(crate) unsafe fn shrink(&mut self, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.pages.unmirror() }?;
        while self.pages.len_bytes > bytes {
            // SAFETY: the caller's promise.
            if !unsafe { self.pages.drop_last() } {
                break;
            }
        }
        self.pages.mirror()
    }
}

/// Pages that were made and are not mapped yet; those that are left when this goes are given back.
#[derive(Debug)]
pub(crate) struct Growth {
    inner: Arc<Inner>,
    made: Vec<(PageId, u64)>,
    /// Promised, and not made.
    left_bytes: u64,
}

impl Growth {
    /// Bytes of the pages.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.made.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        let shared = &self.inner.shared;
        shared.promise_broken(self.left_bytes);
        for &(page, bytes) in &self.made {
            // SAFETY: it was never mapped, and nobody names it again.
            match twice(|| unsafe { shared.device.driver().destroy_page(page) }) {
                Ok(()) => shared.unpaged(bytes),
                Err(error) => shared.memory_stays(&error, "the driver did not take a page back"),
            }
        }
    }
}

impl Pages {
    fn driver(&self) -> &dyn Driver {
        self.inner.shared.device.driver()
    }

    fn end(&self) -> DevicePtr {
        self.base.offset(self.len_bytes)
    }

    /// Maps the second view.
    fn mirror(&mut self) -> Result<()> {
        if !self.is_mirrored && !self.pages.is_empty() {
            let pages: Vec<PageId> = self.pages.iter().map(|&(page, _)| page).collect();
            twice(|| self.driver().map_many(self.end(), &pages)).map_err(Error::from)?;
            self.is_mirrored = true;
        }
        Ok(())
    }

    /// Unmaps the second view.
    ///
    /// # Safety
    /// Nothing in flight touches it, and nobody uses it from now on.
    unsafe fn unmirror(&mut self) -> DeviceResult<()> {
        if self.is_mirrored {
            // SAFETY: these are whole mappings of this space, and the caller promises the rest.
            twice(|| unsafe { self.driver().unmap(self.end(), self.len_bytes) })?;
            self.is_mirrored = false;
        }
        Ok(())
    }

    /// Gives the last page back; false if the driver does not unmap it.
    ///
    /// # Safety
    /// There is no second view; nothing in flight touches the page, and nobody uses it from now on.
    unsafe fn drop_last(&mut self) -> bool {
        let Some(&(page, bytes)) = self.pages.last() else { return false };
        let shared = Arc::clone(&self.inner);
        let shared = &shared.shared;
        let at = self.base.offset(self.len_bytes - bytes);
        // SAFETY: it is one mapping of this space, and the caller promises the rest.
        if let Err(error) = twice(|| unsafe { self.driver().unmap(at, bytes) }) {
            shared.memory_stays(&error, "the driver did not unmap a page");
            return false;
        }
        self.pages.pop();
        self.len_bytes -= bytes;
        // SAFETY: its mappings are gone, and nobody names it again.
        match twice(|| unsafe { self.driver().destroy_page(page) }) {
            Ok(()) => shared.unpaged(bytes),
            Err(error) => shared.memory_stays(&error, "the driver did not take a page back"),
        }
        true
    }

    /// Gives everything back.
    ///
    /// # Safety
    /// Nothing in flight touches it, and nobody uses it from now on.
    unsafe fn end_all(mut self) {
        // SAFETY: the caller's promise.
        if let Err(error) = unsafe { self.unmirror() } {
            self.inner.shared.memory_stays(&error, "the driver did not unmap a ring");
            return;
        }
        // SAFETY: as above.
        while unsafe { self.drop_last() } {}
        if self.pages.is_empty() {
            // SAFETY: the addresses are those of one reservation, with nothing mapped.
            let release = || unsafe { self.driver().release(self.base, self.address_bytes) };
            let released = twice(release);
            if let Err(error) = released {
                tracing::warn!(%error, "the driver did not take addresses back");
            }
        }
    }
}

/// Asks the driver once more where it refuses: nobody will ask again.
fn twice(call: impl Fn() -> DeviceResult<()>) -> DeviceResult<()> {
    call().or_else(|_| call())
}

impl Drop for MirroredSpace {
    fn drop(&mut self) {
        let Pages { inner, base, address_bytes, len_bytes, is_mirrored, .. } = &self.pages;
        let (base, address_bytes, len_bytes, is_mirrored) =
            (*base, *address_bytes, *len_bytes, *is_mirrored);
        let uses = std::mem::take(&mut *lock(&self.uses));
        let mark = |stream| inner.shared.events.record(stream);
        // Once more if refused: without the mark nobody could tell when the pages are out of use.
        let ends = uses.iter().map(|stream| mark(stream).or_else(|_| mark(stream)).map(Arc::new));
        match ends.collect::<Result<Vec<Arc<Event>>>>() {
            Ok(ends) => {
                let inner = Arc::clone(inner);
                let pages = std::mem::take(&mut self.pages.pages);
                let pages = Pages { inner, base, address_bytes, pages, len_bytes, is_mirrored };
                reap(ends, move |reached| {
                    if reached.is_ok() {
                        // SAFETY: the streams that used it are done, and its owner is gone.
                        unsafe { pages.end_all() };
                    }
                });
            }
            Err(error) => {
                inner.shared.memory_stays(&error, "a stream cannot be marked: its pages are kept");
            }
        }
    }
}
