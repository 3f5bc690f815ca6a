//! A stretch of addresses whose pages come and go one by one: for memory that has an order of
//! worth, so that what is worth least can be given up without moving the rest.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use super::allocator::{Allocator, Inner};
use crate::base::{Error, Result, align_up};
use crate::device::{DevicePtr, DeviceResult, Event, PageId, Stream, reap};

/// Addresses of one allocator, with device memory behind some of their pages. What is behind
/// them counts against the allocator's limit like any block; the addresses stay the same for as
/// long as this lives. Dropping it never blocks: the memory goes back once the streams that were
/// [noted](Self::record_use) are done.
///
/// ```
/// use riverbed::device::{Device, Priority, Stream};
/// use riverbed::pool::Allocator;
///
/// let device = Device::open("host:vram=64MiB")?;
/// let stream = Stream::new(&device, Priority::Normal)?;
/// let allocator = Allocator::builder(&device).limit_bytes(8 << 20)?.build()?;
/// let mut space = allocator.paged_space(32 << 20)?;
/// assert!(space.commit(0..6 << 20)?);
/// space.record_use(&stream)?;
/// assert!(!space.commit(8 << 20..16 << 20)?, "the limit holds");
/// assert_eq!(space.decommit(2 << 20..6 << 20)?, 4 << 20);
/// assert_eq!(allocator.stats().reserved_bytes.all.current, 2 << 20);
/// # Ok::<(), riverbed::Error>(())
/// ```
#[derive(Debug)]
pub struct PagedSpace {
    map: PageMap,
    uses: Vec<Stream>,
}

/// The pages, with no care for who uses them.
#[derive(Debug)]
struct PageMap {
    inner: Arc<Inner>,
    base: DevicePtr,
    page_bytes: u64,
    /// What is behind each page.
    pages: Vec<Option<PageId>>,
}

impl Allocator {
    /// Reserves `bytes` of addresses, rounded up to whole pages, with no memory behind them.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on a device without virtual memory, and under `policy:mempool`,
    /// where the driver's pool keeps the limit; what the driver says.
    pub fn paged_space(&self, bytes: u64) -> Result<PagedSpace> {
        let inner = Arc::clone(self.inner());
        let info = inner.shared.device.info();
        if !info.virtual_memory || inner.shared.driver_pool.is_some() {
            return Err(Error::Unsupported {
                what: "memory that comes and goes page by page".into(),
                by: format!("{} under this policy", info.name),
                way_out: "allocate it in several blocks".into(),
            });
        }
        let page_bytes = info.granularity_bytes;
        let whole = align_up(bytes.max(1), page_bytes);
        let whole = whole.ok_or_else(|| Error::invalid("space", bytes, "it exceeds 2^64 bytes"))?;
        let base = inner.shared.device.driver().reserve(whole)?;
        let pages = vec![None; (whole / page_bytes) as usize];
        let map = PageMap { inner, base, page_bytes, pages };
        Ok(PagedSpace { map, uses: Vec::new() })
    }

    /// Waits until what was freed by now is out of use, and what goes back to the driver is there.
    pub(crate) fn settle(&self) -> Result<()> {
        let inner = self.inner();
        if !inner.shared.captures.any() {
            inner.wait_for_retired()?;
        }
        inner.poll();
        inner.shared.wait_released();
        Ok(())
    }

    /// Whether a graph is being captured: nothing may be waited for, and nothing goes back.
    pub(crate) fn is_capturing(&self) -> bool {
        self.inner().shared.captures.any()
    }

    /// Has the next request that fails say so, beside what else was tried for it.
    pub(crate) fn explain_failure(&self, tried: String) {
        self.inner().shared.explain(tried);
    }
}

impl PagedSpace {
    /// Where it begins.
    #[must_use]
    pub fn ptr(&self) -> DevicePtr {
        self.map.base
    }

    /// Its addresses in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.map.pages.len() as u64 * self.map.page_bytes
    }

    /// The size of a page in bytes.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        self.map.page_bytes
    }

    /// Bytes of memory behind it.
    #[must_use]
    pub fn committed_bytes(&self) -> u64 {
        self.map.pages.iter().flatten().count() as u64 * self.map.page_bytes
    }

    /// Puts memory behind every page that `range`, in bytes from the start, touches: all of it,
    /// or none and `false`, if limit or device say "full". Gives nothing up for it and asks
    /// nobody to. What was there stays.
    ///
    /// # Errors
    /// A range outside; what else the driver says.
    pub fn commit(&mut self, range: Range<u64>) -> Result<bool> {
        let mut missing: Vec<usize> = self.touched(&range)?.collect();
        missing.retain(|&page| self.map.pages[page].is_none());
        if missing.is_empty() {
            return Ok(true);
        }
        let map = &mut self.map;
        let bytes = missing.len() as u64 * map.page_bytes;
        if !map.inner.shared.promise(bytes) {
            return Ok(false);
        }
        let mut made = Vec::with_capacity(missing.len());
        match map.make(&missing, &mut made) {
            Ok(()) => {
                map.inner.shared.paged(bytes);
                made.into_iter().for_each(|(at, page, _)| map.pages[at] = Some(page));
                Ok(true)
            }
            Err(error) => {
                let kept = |&(at, page, mapped): &Made| !map.give_back(at, page, mapped);
                let kept_bytes =
                    made.iter().filter(|made| kept(made)).count() as u64 * map.page_bytes;
                map.inner.shared.paged(kept_bytes);
                map.inner.shared.promise_broken(bytes - kept_bytes);
                if error.is_out_of_memory() { Ok(false) } else { Err(error.into()) }
            }
        }
    }

    /// Takes the memory behind every page that lies wholly in `range` away, and gives it back to
    /// the device. Blocks until the streams that were noted have run what they were given. Gives
    /// the bytes that went.
    ///
    /// Whoever still has addresses there must not use them from here on.
    ///
    /// # Errors
    /// A range outside; a stream that cannot be waited for, and nothing went.
    pub fn decommit(&mut self, range: Range<u64>) -> Result<u64> {
        self.touched(&range)?;
        let page_bytes = self.map.page_bytes;
        let (first, last) = (range.start.div_ceil(page_bytes), range.end / page_bytes);
        let pages = first as usize..(last as usize).max(first as usize);
        if !pages.clone().any(|page| self.map.pages[page].is_some()) {
            return Ok(0);
        }
        for stream in &self.uses {
            stream.synchronize()?;
        }
        Ok(self.map.clear(pages))
    }

    /// Notes that work on `stream` uses the memory.
    ///
    /// # Errors
    /// A stream of another device.
    pub fn record_use(&mut self, stream: &Stream) -> Result<()> {
        self.map.inner.shared.device.same_as(stream.device(), "stream")?;
        if !self.uses.contains(stream) {
            self.uses.push(stream.clone());
        }
        Ok(())
    }

    /// The pages that a range touches.
    fn touched(&self, range: &Range<u64>) -> Result<Range<usize>> {
        if range.start > range.end || range.end > self.len_bytes() {
            let expected = format!("the space has {} bytes", self.len_bytes());
            return Err(Error::invalid("range", format_args!("{range:?}"), expected));
        }
        let page_bytes = self.map.page_bytes;
        let first = range.start / page_bytes;
        Ok(first as usize..range.end.div_ceil(page_bytes).max(first) as usize)
    }
}

/// A page that the driver made: for which place, and whether it is mapped there.
type Made = (usize, PageId, bool);

impl PageMap {
    /// Makes and maps pages for these places; what was done of it stands in `made`.
    fn make(&self, places: &[usize], made: &mut Vec<Made>) -> DeviceResult<()> {
        let driver = self.inner.shared.device.driver();
        for &at in places {
            made.push((at, driver.create_page(self.page_bytes)?, false));
        }
        // Neighbours are mapped in one call.
        for run in made.chunk_by_mut(|a, b| a.0 + 1 == b.0) {
            let pages: Vec<PageId> = run.iter().map(|&(_, page, _)| page).collect();
            driver.map_many(self.address(run[0].0), &pages)?;
            run.iter_mut().for_each(|(.., mapped)| *mapped = true);
        }
        Ok(())
    }

    /// Gives pages back that nothing uses; those the driver refuses stay. Gives the bytes.
    fn clear(&mut self, pages: Range<usize>) -> u64 {
        let mut bytes = 0;
        for at in pages {
            if let Some(page) = self.pages[at]
                && self.give_back(at, page, true)
            {
                self.pages[at] = None;
                bytes += self.page_bytes;
            }
        }
        self.inner.shared.unpaged(bytes);
        bytes
    }

    fn give_back(&self, at: usize, page: PageId, mapped: bool) -> bool {
        let shared = &self.inner.shared;
        let driver = shared.device.driver();
        let address = self.address(at);
        // SAFETY: nobody was told of it yet, or the streams that were noted have run; the mapping
        // is one whole page of this space.
        let gone = if mapped { unsafe { driver.unmap(address, self.page_bytes) } } else { Ok(()) };
        // SAFETY: its only mapping is gone, and nobody names it again.
        let gone = gone.and_then(|()| unsafe { driver.destroy_page(page) });
        if let Err(error) = &gone {
            shared.memory_stays(error, "the driver did not take a page back");
        }
        gone.is_ok()
    }

    fn address(&self, page: usize) -> DevicePtr {
        self.base.offset(page as u64 * self.page_bytes)
    }

    /// Gives everything back that nothing uses any more.
    fn end(mut self) {
        self.clear(0..self.pages.len());
        if self.pages.iter().any(Option::is_some) {
            return;
        }
        let (base, bytes) = (self.base, self.pages.len() as u64 * self.page_bytes);
        // SAFETY: the addresses are those of one reservation, with nothing mapped.
        let released = unsafe { self.inner.shared.device.driver().release(base, bytes) };
        if let Err(error) = released {
            tracing::warn!(%error, "the driver did not take addresses back");
        }
    }
}

impl Drop for PagedSpace {
    fn drop(&mut self) {
        let shared = &self.map.inner.shared;
        let ends = self.uses.iter().map(|stream| shared.events.record(stream).map(Arc::new));
        match ends.collect::<Result<Vec<Arc<Event>>>>() {
            Ok(ends) => {
                let map = PageMap {
                    inner: Arc::clone(&self.map.inner),
                    pages: std::mem::take(&mut self.map.pages),
                    base: self.map.base,
                    page_bytes: self.map.page_bytes,
                };
                reap(ends, move |reached| {
                    if reached.is_ok() {
                        map.end();
                    }
                });
            }
            Err(error) => {
                shared.memory_stays(&error, "a stream cannot be marked: its pages are kept");
            }
        }
    }
}
