//! Device memory as every device without a driver of its own keeps it: address space reserved
//! with nothing behind it, and pages mapped into it. One page may be mapped at several addresses,
//! as on a GPU; the capacity counts each page once.
//!
//! The books and all checks are here; what happens to real memory is the [`Backing`]'s.

use std::collections::BTreeMap;

use crate::base::DeviceError;

/// What went wrong: a status of the contract. Nothing was changed.
pub(super) type Status = u32;

/// What stands behind addresses and pages. Sizes are multiples of the granularity.
pub(super) trait Backing: std::fmt::Debug + Send + 'static {
    /// Address space, aligned to the granularity.
    fn reserve(&mut self, bytes: u64) -> Result<u64, Status>;
    /// Gives address space back.
    ///
    /// # Safety
    /// `at` and `bytes` are those of one `reserve`, not released yet.
    unsafe fn release(&mut self, at: u64, bytes: u64) -> Result<(), Status>;
    /// A page; gives its token.
    fn create(&mut self, bytes: u64) -> Result<u64, Status>;
    /// A page that is mapped once, at one place, and goes with that.
    fn create_single(&mut self, bytes: u64) -> Result<u64, Status> {
        self.create(bytes)
    }
    /// Gives a page back.
    fn discard(&mut self, token: u64, bytes: u64);
    /// Shows the page at `at`.
    ///
    /// # Safety
    /// `bytes` from `at` lie in one reservation, and nothing in use is mapped there.
    unsafe fn map(&mut self, at: u64, token: u64, bytes: u64) -> Result<(), Status>;
    /// Shows nothing any more in `bytes` from `at`.
    ///
    /// # Safety
    /// The range lies in one reservation, and nothing touches it.
    unsafe fn unmap(&mut self, at: u64, bytes: u64) -> Result<(), Status>;
}

/// Address space and physical pages of one device.
#[derive(Debug)]
pub(super) struct Arena<B: Backing> {
    backing: B,
    granularity_bytes: u64,
    capacity_bytes: u64,
    committed_bytes: u64,
    /// Reserved ranges by address.
    ranges: BTreeMap<u64, Range>,
    pages: slab::Slab<Page>,
    /// Whole allocations by address: the page behind each.
    allocations: BTreeMap<u64, usize>,
}

#[derive(Debug)]
struct Range {
    bytes: u64,
    /// Mapped pages by address.
    mapped: BTreeMap<u64, usize>,
}

#[derive(Debug)]
struct Page {
    token: u64,
    bytes: u64,
    mappings: u32,
    /// Its handle was given up; it goes with its last mapping.
    destroyed: bool,
}

impl<B: Backing> Arena<B> {
    pub(super) fn new(backing: B, capacity_bytes: u64, granularity_bytes: u64) -> Self {
        Self {
            backing,
            granularity_bytes,
            capacity_bytes,
            committed_bytes: 0,
            ranges: BTreeMap::new(),
            pages: slab::Slab::new(),
            allocations: BTreeMap::new(),
        }
    }

    /// `bytes` in whole pages; as it is where that overflows, which no device has room for.
    pub(super) fn rounded(&self, bytes: u64) -> u64 {
        bytes.checked_next_multiple_of(self.granularity_bytes).unwrap_or(bytes)
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity_bytes - self.committed_bytes
    }

    /// Takes address space and a page for it in one go.
    pub(super) fn alloc(&mut self, bytes: u64) -> Result<u64, Status> {
        let bytes = bytes
            .checked_next_multiple_of(self.granularity_bytes)
            .ok_or(DeviceError::OUT_OF_MEMORY)?;
        let page = self.commit(bytes, B::create_single)?;
        let at = self.reserve(bytes).inspect_err(|_| self.discard(page))?;
        if let Err(status) = self.map(at, &[page]) {
            self.discard(page);
            // Nothing is mapped there, so this cannot fail in a way that matters more.
            let _ = self.release(at, bytes);
            return Err(status);
        }
        self.allocations.insert(at, page);
        Ok(at)
    }

    pub(super) fn free(&mut self, at: u64) -> Result<(), Status> {
        let page = *self.allocations.get(&at).ok_or(DeviceError::INVALID_VALUE)?;
        let bytes = self.pages[page].bytes;
        self.unmap(at, bytes)?;
        self.allocations.remove(&at);
        self.destroy_page(page)?;
        self.release(at, bytes)
    }

    pub(super) fn reserve(&mut self, bytes: u64) -> Result<u64, Status> {
        self.check_granularity(bytes)?;
        let at = self.backing.reserve(bytes)?;
        self.ranges.insert(at, Range { bytes, mapped: BTreeMap::new() });
        Ok(at)
    }

    pub(super) fn release(&mut self, at: u64, bytes: u64) -> Result<(), Status> {
        match self.ranges.get(&at) {
            Some(range) if range.bytes == bytes && range.mapped.is_empty() => {}
            _ => return Err(DeviceError::INVALID_VALUE),
        }
        // SAFETY: the range is in the books, and they lose it here.
        unsafe { self.backing.release(at, bytes) }?;
        self.ranges.remove(&at);
        Ok(())
    }

    pub(super) fn create_page(&mut self, bytes: u64) -> Result<usize, Status> {
        self.commit(bytes, B::create)
    }

    fn commit(
        &mut self,
        bytes: u64,
        create: impl FnOnce(&mut B, u64) -> Result<u64, Status>,
    ) -> Result<usize, Status> {
        self.check_granularity(bytes)?;
        if bytes > self.free_bytes() {
            return Err(DeviceError::OUT_OF_MEMORY);
        }
        let token = create(&mut self.backing, bytes)?;
        self.committed_bytes += bytes;
        Ok(self.pages.insert(Page { token, bytes, mappings: 0, destroyed: false }))
    }

    pub(super) fn destroy_page(&mut self, page: usize) -> Result<(), Status> {
        let entry = self.pages.get_mut(page).filter(|entry| !entry.destroyed);
        let entry = entry.ok_or(DeviceError::INVALID_HANDLE)?;
        entry.destroyed = true;
        if entry.mappings == 0 {
            self.discard(page);
        }
        Ok(())
    }

    /// The bytes of `pages`, if they can be mapped one after the other from `at`.
    pub(super) fn check_map(&self, at: u64, pages: &[usize]) -> Result<u64, Status> {
        let mut bytes = 0u64;
        for &page in pages {
            let entry = self.pages.get(page).filter(|entry| !entry.destroyed);
            let entry = entry.ok_or(DeviceError::INVALID_HANDLE)?;
            bytes = bytes.checked_add(entry.bytes).ok_or(DeviceError::INVALID_VALUE)?;
        }
        self.check_granularity(bytes)?;
        let range = &self.ranges[&self.covering(at, bytes).ok_or(DeviceError::INVALID_VALUE)?];
        // Mappings in one range do not overlap, so only the last before the end can collide.
        let before = range.mapped.range(..at + bytes).next_back();
        if before.is_some_and(|(&start, &other)| start + self.pages[other].bytes > at) {
            return Err(DeviceError::INVALID_VALUE);
        }
        Ok(bytes)
    }

    /// Maps pages one after the other from `at`: all or none.
    pub(super) fn map(&mut self, at: u64, pages: &[usize]) -> Result<(), Status> {
        let bytes = self.check_map(at, pages)?;
        let reservation = self.covering(at, bytes).ok_or(DeviceError::INVALID_VALUE)?;
        let mut next = at;
        for &page in pages {
            let entry = &self.pages[page];
            // SAFETY: the target lies in a range of the books with nothing mapped there.
            let mapped = unsafe { self.backing.map(next, entry.token, entry.bytes) };
            if let Err(status) = mapped {
                if next > at {
                    // SAFETY: mapped just now and used by nobody yet. A failure leaves bytes
                    // visible that no book knows of, and the next mapping there replaces them.
                    let _ = unsafe { self.backing.unmap(at, next - at) };
                }
                return Err(status);
            }
            next += entry.bytes;
        }
        let Some(range) = self.ranges.get_mut(&reservation) else {
            return Err(DeviceError::INVALID_VALUE);
        };
        let mut next = at;
        for &page in pages {
            let entry = &mut self.pages[page];
            entry.mappings += 1;
            range.mapped.insert(next, page);
            next += entry.bytes;
        }
        Ok(())
    }

    pub(super) fn unmap(&mut self, at: u64, bytes: u64) -> Result<(), Status> {
        self.check_granularity(bytes)?;
        let reservation = self.covering(at, bytes).ok_or(DeviceError::INVALID_VALUE)?;
        let Some(range) = self.ranges.get_mut(&reservation) else {
            return Err(DeviceError::INVALID_VALUE);
        };
        let inside: Vec<(u64, usize)> =
            range.mapped.range(at..at + bytes).map(|(&start, &page)| (start, page)).collect();
        let last = inside.last().ok_or(DeviceError::INVALID_VALUE)?;
        let last_end = last.0 + self.pages[last.1].bytes;
        let cut = range.mapped.range(..at).next_back();
        let cuts_one = cut.is_some_and(|(&start, &page)| start + self.pages[page].bytes > at);
        if cuts_one || last_end > at + bytes {
            return Err(DeviceError::INVALID_VALUE);
        }
        // SAFETY: the range is in the books; the caller of `Driver::unmap` or `Driver::free`
        // promised that nothing touches it.
        unsafe { self.backing.unmap(at, bytes) }?;
        for &(start, _) in &inside {
            range.mapped.remove(&start);
        }
        for (_, page) in inside {
            let entry = &mut self.pages[page];
            entry.mappings -= 1;
            if entry.mappings == 0 && entry.destroyed {
                self.discard(page);
            }
        }
        Ok(())
    }

    /// True when every byte of the range is mapped.
    pub(super) fn is_mapped(&self, at: u64, bytes: u64) -> bool {
        let page_start = at - at % self.granularity_bytes;
        let Some(end) = at.checked_add(bytes) else { return false };
        let Some(reservation) = self.covering(page_start, end - page_start) else { return false };
        let range = &self.ranges[&reservation];
        let mut reached = at;
        let first = range.mapped.range(..=at).next_back().map_or(at, |(&start, _)| start);
        for (&start, &page) in range.mapped.range(first..end) {
            if start > reached {
                return false;
            }
            reached = reached.max(start + self.pages[page].bytes);
        }
        reached >= end
    }

    /// The start of the reservation that holds `bytes` from `at`, a multiple of the granularity.
    fn covering(&self, at: u64, bytes: u64) -> Option<u64> {
        let end = at.checked_add(bytes)?;
        let (&start, range) = self.ranges.range(..=at).next_back()?;
        (at.is_multiple_of(self.granularity_bytes) && end <= start + range.bytes).then_some(start)
    }

    fn discard(&mut self, page: usize) {
        let page = self.pages.remove(page);
        self.committed_bytes -= page.bytes;
        self.backing.discard(page.token, page.bytes);
    }

    fn check_granularity(&self, bytes: u64) -> Result<(), Status> {
        if bytes == 0 || !bytes.is_multiple_of(self.granularity_bytes) {
            return Err(DeviceError::INVALID_VALUE);
        }
        Ok(())
    }
}

impl<B: Backing> Drop for Arena<B> {
    fn drop(&mut self) {
        for (&at, range) in &self.ranges {
            // SAFETY: the driver is gone and with it every handle and every worker that could
            // touch the range. A failure leaves address space behind, which the process end frees.
            let _ = unsafe { self.backing.release(at, range.bytes) };
        }
    }
}
