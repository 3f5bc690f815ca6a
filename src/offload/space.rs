//! Device memory of what stays: pieces packed one behind the other, in pages that come and go one
//! by one where the device maps memory, else in blocks of several pieces.

use std::ops::Range;

use crate::base::{Error, MIB, Result, align_up};
use crate::conf::MEMPOOL;
use crate::device::{DevicePtr, Stream};
use crate::fence::EventPool;
use crate::pool::{Allocator, Buffer, PagedSpace};

/// Without virtual memory, about how much comes and goes at once.
const BLOCK_BYTES: u64 = 32 * MIB;

/// Where pieces lie, and which pages that takes. Pages are those of the device, or blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// By piece: its bytes from the start, or from its block's, and the pages it touches.
    of: Vec<Option<(u64, u64, Range<usize>)>>,
    /// Bytes of each page.
    page_bytes: Vec<u64>,
}

impl Places {
    /// Packs these pieces (number, bytes, group) in this order; a group begins a page.
    pub(super) fn new(
        pieces: impl Iterator<Item = (usize, u64, usize)>,
        count: usize,
        page_bytes: u64,
        is_paged: bool,
    ) -> Result<Self> {
        let mut places = Self { of: vec![None; count], page_bytes: Vec::new() };
        let (mut end, mut last_group) = (0u64, None);
        let page_up = |bytes| align_up(bytes, page_bytes).ok_or_else(too_much);
        for (piece, bytes, group) in pieces {
            let is_other = last_group.replace(group) != Some(group);
            let is_full = !is_paged && end > 0 && end.saturating_add(bytes) > BLOCK_BYTES;
            if is_paged && is_other {
                end = page_up(end)?;
            } else if !is_paged && (is_other || is_full) {
                end = 0;
                places.page_bytes.push(0);
            }
            let start = end;
            end = start.checked_add(bytes).ok_or_else(too_much)?;
            let pages = if is_paged {
                let pages = (start / page_bytes) as usize..(page_up(end)? / page_bytes) as usize;
                places.page_bytes.resize(places.page_bytes.len().max(pages.end), page_bytes);
                pages
            } else {
                let block = places.page_bytes.len() - 1;
                places.page_bytes[block] = page_up(end)?;
                block..block + 1
            };
            places.of[piece] = Some((start, bytes, pages));
        }
        Ok(places)
    }

    /// The pages a piece touches; none for one that never stays.
    pub(super) fn pages(&self, piece: usize) -> Range<usize> {
        self.of[piece].as_ref().map_or(0..0, |(.., pages)| pages.clone())
    }

    /// Bytes of each page.
    pub(super) fn page_bytes(&self) -> &[u64] {
        &self.page_bytes
    }
}

fn too_much() -> Error {
    Error::invalid("residents", "all", "they have more than 2^64 bytes")
}

/// The pieces that are on the device.
#[derive(Debug)]
pub(super) struct ResidentSpace {
    pub(super) places: Places,
    backing: Backing,
    /// How many pieces that are there touch each page.
    users: Vec<u32>,
    there: Vec<bool>,
    /// Streams that used any of it.
    uses: Vec<Stream>,
    events: EventPool,
}

#[derive(Debug)]
enum Backing {
    Paged(PagedSpace),
    Blocks { allocator: Allocator, home: Stream, blocks: Vec<Option<Buffer<u8>>> },
}

impl ResidentSpace {
    /// With nothing there yet. `home` is a stream of the device.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) fn new(allocator: &Allocator, home: &Stream, places: Places) -> Result<Self> {
        let backing = match is_paged(allocator) {
            true => Backing::Paged(allocator.paged_space(places.page_bytes.iter().sum())?),
            false => {
                let blocks = places.page_bytes.iter().map(|_| None).collect();
                Backing::Blocks { allocator: allocator.clone(), home: home.clone(), blocks }
            }
        };
        let (users, there) = (vec![0; places.page_bytes.len()], vec![false; places.of.len()]);
        let events = EventPool::new(allocator.device());
        Ok(Self { places, backing, users, there, uses: Vec::new(), events })
    }

    /// Which pieces are there.
    pub(super) fn there(&self) -> &[bool] {
        &self.there
    }

    /// Bytes of device memory behind what is there.
    pub(super) fn committed_bytes(&self) -> u64 {
        match &self.backing {
            Backing::Paged(space) => space.committed_bytes(),
            Backing::Blocks { blocks, .. } => {
                let taken = blocks.iter().zip(&self.places.page_bytes);
                taken.filter(|(block, _)| block.is_some()).map(|(_, bytes)| bytes).sum()
            }
        }
    }

    /// Takes memory for a piece that is not there: its address, or `None` without room.
    ///
    /// # Errors
    /// What else the driver says.
    pub(super) fn take(&mut self, piece: usize) -> Result<Option<DevicePtr>> {
        let Some((start, bytes, pages)) = self.places.of[piece].clone() else { return Ok(None) };
        let at = match &mut self.backing {
            Backing::Paged(space) => {
                if !space.commit(start..start + bytes)? {
                    return Ok(None);
                }
                space.ptr().offset(start)
            }
            Backing::Blocks { allocator, home, blocks } => {
                let block = &mut blocks[pages.start];
                if block.is_none() {
                    let bytes = self.places.page_bytes[pages.start] as usize;
                    match allocator.alloc_dedicated::<u8>(bytes, home) {
                        Ok(taken) => *block = Some(taken),
                        Err(Error::OutOfMemory(_) | Error::TooLarge { .. }) => return Ok(None),
                        Err(error) => return Err(error),
                    }
                }
                block.as_ref().map_or(DevicePtr(0), Buffer::ptr).offset(start)
            }
        };
        self.users[pages].iter_mut().for_each(|users| *users += 1);
        self.there[piece] = true;
        Ok(Some(at))
    }

    /// Gives up the pages that only these pieces touch. Blocks until the streams that used them
    /// are done, where memory is mapped.
    ///
    /// # Errors
    /// A stream that cannot be waited for: what it may use stays in memory, and is not used again.
    pub(super) fn give(&mut self, pieces: &[usize]) -> Result<()> {
        for &piece in pieces {
            if std::mem::take(&mut self.there[piece]) {
                let pages = self.places.pages(piece);
                self.users[pages].iter_mut().for_each(|users| *users -= 1);
            }
        }
        match &mut self.backing {
            Backing::Paged(space) => {
                let mut at = 0u64;
                for run in self.users.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
                    let bytes = run.len() as u64 * space.page_bytes();
                    if run[0] == 0 {
                        space.decommit(at..at + bytes)?;
                    }
                    at += bytes;
                }
            }
            Backing::Blocks { blocks, .. } => {
                for (block, _) in
                    blocks.iter_mut().zip(&self.users).filter(|(_, users)| **users == 0)
                {
                    *block = None;
                }
            }
        }
        Ok(())
    }

    /// Notes that work on `stream` uses a piece that is there.
    ///
    /// # Errors
    /// A stream of another device.
    pub(super) fn record_use(&mut self, piece: usize, stream: &Stream) -> Result<()> {
        if !self.uses.contains(stream) {
            self.uses.push(stream.clone());
        }
        match &mut self.backing {
            Backing::Paged(space) => space.record_use(stream),
            Backing::Blocks { blocks, .. } => {
                let mut blocks = blocks[self.places.pages(piece)].iter().flatten();
                blocks.try_for_each(|block| block.record_use(stream))
            }
        }
    }
}

impl ResidentSpace {
    /// Makes `stream` wait, on the device, for all work that was given anything of it by now: a
    /// piece may come again to a page that stayed.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) fn order_after_uses(&self, stream: &Stream) -> Result<()> {
        let mut others = self.uses.iter().filter(|used| *used != stream);
        others.try_for_each(|used| self.events.order(used, stream))
    }
}

/// Whether memory comes and goes page by page.
pub(super) fn is_paged(allocator: &Allocator) -> bool {
    let conf = allocator.conf();
    allocator.device().info().virtual_memory && conf.policy() != MEMPOOL
}
