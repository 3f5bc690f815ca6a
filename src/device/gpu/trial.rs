//! Self-tests at the start, for a vendor whose virtual memory and pools are not to be trusted
//! unseen: what fails is switched off, with the reason.

use std::ptr::null_mut;

use super::abi::{
    ACCESS_READ_WRITE, AccessDescription, AllocationProperties, HOST_PORTABLE, Location,
    PoolProperties, STREAM_NON_BLOCKING,
};
use super::calls::Calls;
use super::card::Card;
use super::symbols::Refusal;
use super::vendor::Vendor;
use crate::device::info::{DeviceInfo, DriverInfo};

/// Switches off what does not pass.
pub(super) fn keep_what_works<V: Vendor>(
    card: &Card<V>,
    info: &mut DeviceInfo,
    driver: &mut DriverInfo,
) {
    let mut keep = |on: &mut bool, what: &str, trial: Result<(), Failure>| {
        if let Err(Failure(reason)) = trial {
            *on = false;
            driver.notes.push(format!("no {what}: the self-test failed ({reason})"));
        }
    };
    if info.virtual_memory {
        let page_bytes = info.granularity_bytes;
        let trial = virtual_memory(card, page_bytes);
        keep(&mut info.virtual_memory, "virtual memory", trial);
    }
    if info.memory_pools {
        let trial = pools(card);
        keep(&mut info.memory_pools, "stream-ordered pools", trial);
        info.pool_caps &= info.memory_pools;
        info.process_pool &= info.memory_pools;
    }
}

/// Why a self-test failed.
struct Failure(String);

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self(format!("{} answers {}", refusal.symbol, refusal.status))
    }
}

fn expect(holds: bool, otherwise: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure(otherwise.into())) }
}

/// What a self-test has taken; given back when dropped, in the order that drivers want.
struct Taken<'a> {
    calls: &'a Calls,
    stream: Option<u64>,
    /// A pinned word that copies go through.
    word: *mut u64,
    mapped: Vec<(u64, u64)>,
    pages: Vec<u64>,
    reserved: Vec<(u64, u64)>,
    pooled: Vec<u64>,
    pool: Option<u64>,
}

impl<'a> Taken<'a> {
    fn new(calls: &'a Calls) -> Result<Self, Failure> {
        let mut taken = Self {
            calls,
            stream: None,
            word: null_mut(),
            mapped: Vec::new(),
            pages: Vec::new(),
            reserved: Vec::new(),
            pooled: Vec::new(),
            pool: None,
        };
        let (mut stream, mut word) = (0, null_mut());
        // SAFETY: pointers to a live handle and a live pointer.
        unsafe {
            calls.stream_create(&raw mut stream, STREAM_NON_BLOCKING, 0)?;
            taken.stream = Some(stream);
            calls.host_alloc(&raw mut word, size_of::<u64>(), HOST_PORTABLE)?;
        }
        taken.word = word.cast();
        Ok(taken)
    }

    fn stream(&self) -> u64 {
        self.stream.unwrap_or_default()
    }

    fn map(&mut self, at: u64, page: u64, bytes: u64, device: i32) -> Result<(), Failure> {
        let location = Location::device(device);
        let access = AccessDescription { location, flags: ACCESS_READ_WRITE };
        // SAFETY: the range is reserved and empty, the page is live, as is the description.
        unsafe {
            self.calls.page_map(at, bytes as usize, 0, page, 0)?;
            self.mapped.push((at, bytes));
            self.calls.page_access(at, bytes as usize, &raw const access, 1)?;
        }
        Ok(())
    }

    fn unmap(&mut self, at: u64) -> Result<(), Failure> {
        let place = self.mapped.iter().position(|&(start, _)| start == at);
        if let Some(place) = place {
            let (at, bytes) = self.mapped[place];
            // SAFETY: mapped here, and nothing is in flight.
            unsafe { self.calls.page_unmap(at, bytes as usize) }?;
            self.mapped.swap_remove(place);
        }
        Ok(())
    }

    /// Writes a word at `at` and waits.
    fn write(&self, at: u64, word: u64) -> Result<(), Failure> {
        let stream = self.stream();
        // SAFETY: the word is this value's, and the copy is waited for.
        unsafe {
            self.word.write(word);
            self.calls.copy_h2d(at, self.word.cast(), size_of::<u64>(), stream)?;
            Ok(self.calls.stream_synchronize(stream)?)
        }
    }

    /// The word at `at`.
    fn read(&self, at: u64) -> Result<u64, Failure> {
        let stream = self.stream();
        // SAFETY: the word is this value's, and the copy is waited for.
        unsafe {
            self.word.write(0);
            self.calls.copy_d2h(self.word.cast(), at, size_of::<u64>(), stream)?;
            self.calls.stream_synchronize(stream)?;
            Ok(self.word.read())
        }
    }

    fn free_bytes(&self) -> Result<u64, Failure> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: pointers to live values.
        unsafe { self.calls.memory_info(&raw mut free, &raw mut total) }?;
        Ok(free as u64)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let calls = self.calls;
        // A failure here was a failure before, or leaves a little memory behind.
        // SAFETY: all of it was taken here and not given back, and the stream is waited for.
        unsafe {
            // Waiting may be what failed.
            if let Some(stream) = self.stream {
                let _ = calls.stream_synchronize(stream);
            }
            for &(at, bytes) in &self.mapped {
                let _ = calls.page_unmap(at, bytes as usize);
            }
            for &page in &self.pages {
                let _ = calls.page_release(page);
            }
            for &(at, bytes) in &self.reserved {
                let _ = calls.address_free(at, bytes as usize);
            }
            for &at in &self.pooled {
                let _ = calls.pool_free(at, self.stream());
            }
            if let Some(stream) = self.stream {
                let _ = calls.stream_synchronize(stream);
                let _ = calls.stream_destroy(stream);
            }
            if !self.word.is_null() {
                let _ = calls.host_free(self.word.cast());
            }
            if let Some(pool) = self.pool {
                let _ = calls.pool_destroy(pool);
            }
        }
    }
}

/// Maps, aliases, remaps, and sees that memory comes back while its addresses stay reserved.
fn virtual_memory<V: Vendor>(card: &Card<V>, page_bytes: u64) -> Result<(), Failure> {
    let device = card.context.device;
    inside(card, |calls| {
        let mut taken = Taken::new(calls)?;
        let mut at = 0;
        // SAFETY: the pointer is to a live number.
        unsafe { calls.address_reserve(&raw mut at, 2 * page_bytes as usize, 0, 0, 0) }?;
        taken.reserved.push((at, 2 * page_bytes));
        let properties = AllocationProperties::on_device(device);
        let before = taken.free_bytes()?;
        let mut pages = [0_u64; 2];
        for page in &mut pages {
            // SAFETY: pointers to live values.
            unsafe {
                calls.page_create(page, page_bytes as usize, &raw const properties, 0)?;
            }
            taken.pages.push(*page);
        }
        let (first, second) = (at, at + page_bytes);
        taken.map(first, pages[0], page_bytes, device)?;
        taken.map(second, pages[0], page_bytes, device)?;
        taken.write(first, 0x5eed_0001)?;
        expect(taken.read(second)? == 0x5eed_0001, "one page at two addresses shows two contents")?;
        taken.unmap(first)?;
        taken.map(first, pages[1], page_bytes, device)?;
        taken.write(first, 0x5eed_0002)?;
        expect(taken.read(first)? == 0x5eed_0002, "a page mapped anew does not keep its bytes")?;
        expect(taken.read(second)? == 0x5eed_0001, "a page unmapped elsewhere lost its bytes")?;
        taken.unmap(first)?;
        taken.unmap(second)?;
        taken.map(first, pages[0], page_bytes, device)?;
        expect(taken.read(first)? == 0x5eed_0001, "a remapped page shows what was there before")?;
        taken.unmap(first)?;
        while let Some(&page) = taken.pages.last() {
            // SAFETY: made here, mapped nowhere.
            unsafe { calls.page_release(page) }?;
            taken.pages.pop();
        }
        // Others on the device may take memory meanwhile; they hardly take just this much.
        expect(
            taken.free_bytes()? + page_bytes > before,
            "memory stays taken while its addresses are reserved",
        )
    })
}

/// Allocates, frees and allocates again from a pool, with bytes.
fn pools<V: Vendor>(card: &Card<V>) -> Result<(), Failure> {
    const BYTES: usize = 1 << 20;
    inside(card, |calls| {
        let mut taken = Taken::new(calls)?;
        let properties = PoolProperties::on_device(card.context.device, 0);
        let mut pool = 0;
        // SAFETY: pointers to live values.
        unsafe { calls.pool_create(&raw mut pool, &raw const properties) }?;
        taken.pool = Some(pool);
        // Without a threshold the runtime is known to lose what is freed.
        let mut threshold = u64::MAX;
        // SAFETY: the attribute is 64 bits wide.
        unsafe { calls.pool_set(pool, 4, (&raw mut threshold).cast()) }?;
        for round in 1..=8_u64 {
            for _ in 0..2 {
                let (mut at, stream) = (0, taken.stream());
                // SAFETY: the pointer is to a live number.
                unsafe { calls.pool_alloc(&raw mut at, BYTES, pool, stream) }?;
                taken.pooled.push(at);
            }
            let held = [taken.pooled[0], taken.pooled[1]];
            expect(held[0].abs_diff(held[1]) >= BYTES as u64, "two allocations overlap")?;
            taken.write(held[0], round)?;
            taken.write(held[1], !round)?;
            expect(taken.read(held[0])? == round, "an allocation does not keep its bytes")?;
            while let Some(&at) = taken.pooled.last() {
                // SAFETY: allocated here, on this stream.
                unsafe { calls.pool_free(at, taken.stream()) }?;
                taken.pooled.pop();
            }
        }
        Ok(())
    })
}

/// Does `work` with the device current.
fn inside<V: Vendor>(
    card: &Card<V>,
    work: impl FnOnce(&Calls) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut outcome = Ok(());
    card.apart(|calls| {
        outcome = work(calls);
        Ok(())
    })?;
    outcome
}
