//! What is asked of the driver, all or nothing.
#![allow(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::address::Area;
use super::{Book, Doomed};
use crate::base::Result;
use crate::device::{Device, DevicePtr, Event, PageId};
use crate::event::TraceEvent;
use crate::fence::StreamKey;
use crate::policy::expandable::{HandleId, Pages, RangeId};
use crate::pool::shared::Shared;

/// Physical memory the driver made and nobody has entered yet. Sizes in bytes.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) bytes: u64,
    pub(super) page: PageId,
}

fn destroy_page(device: &Device, page: PageId) -> bool {
    // SAFETY: the handle is in no book any more, so nobody names it again, and its last mapping
    // is gone.
    let gone = unsafe { device.driver().destroy_page(page) };
    if let Err(error) = &gone {
        tracing::warn!(%error, "the driver did not take physical memory back");
    }
    gone.is_ok()
}

/// Maps pages one after the other from `at`. A failure leaves nothing mapped.
///
/// # Errors
/// What the driver says.
pub(super) fn map(shared: &Shared, at: u64, pages: &[PageId]) -> Result<()> {
    shared.device.driver().map_many(DevicePtr(at), pages)?;
    shared.count(|stats| stats.num_device_alloc += 1);
    Ok(())
}

/// Unmaps one view. True if it is gone.
fn unmap(device: &Device, address: u64, bytes: u64) -> bool {
    // SAFETY: the view owns no byte, and the streams that used it while it did are done.
    let gone = unsafe { device.driver().unmap(DevicePtr(address), bytes) };
    if let Err(error) = &gone {
        tracing::warn!(%error, "the driver did not unmap free memory");
    }
    gone.is_ok()
}

impl Book {
    /// Makes physical memory of these sizes, within the limit; `None` if limit or device say
    /// "full".
    ///
    /// # Errors
    /// What else the driver says.
    pub(super) fn create(&mut self, shared: &Shared, sizes: &[u64]) -> Result<Option<Vec<Fresh>>> {
        let promised_bytes = sizes.iter().sum();
        if !shared.promise(promised_bytes) {
            return Ok(None);
        }
        let mut made = Vec::with_capacity(sizes.len());
        for &bytes in sizes {
            match shared.device.driver().create_page(bytes) {
                Ok(page) => made.push(Fresh { bytes, page }),
                Err(error) => {
                    self.take_back(shared, made, promised_bytes);
                    return if error.is_out_of_memory() { Ok(None) } else { Err(error.into()) };
                }
            }
        }
        Ok(Some(made))
    }

    /// Gives back what [`create`](Self::create) made and nobody mapped, and with it the promise.
    /// What the driver refuses is held, out of use.
    pub(super) fn take_back(&mut self, shared: &Shared, made: Vec<Fresh>, promised_bytes: u64) {
        let refused = |fresh: &Fresh| !destroy_page(&shared.device, fresh.page);
        let strays: Vec<Fresh> = made.into_iter().filter(refused).collect();
        let stray_bytes = strays.iter().map(|fresh| fresh.bytes).sum();
        shared.handles_came(self.pool, stray_bytes);
        shared.promise_broken(promised_bytes - stray_bytes);
        self.strays.extend(strays);
    }

    /// Tries again to give strays back.
    pub(super) fn retry_strays(&mut self, shared: &Shared) {
        let pool = self.pool;
        self.strays.retain(|fresh| {
            let gone = destroy_page(&shared.device, fresh.page);
            if gone {
                shared.handle_left(pool, fresh.bytes);
            }
            !gone
        });
    }

    /// Enters what was made and mapped at its home.
    pub(super) fn enter(
        &mut self,
        shared: &Shared,
        arena: u32,
        at: u64,
        range: RangeId,
        fresh: &Fresh,
    ) -> HandleId {
        let handle = self.pages.add(fresh.bytes, at, range);
        self.physical.insert(handle, fresh.page);
        shared.enter_addresses(at, fresh.bytes, self.members[arena as usize].number);
        let (bytes, stream) = (fresh.bytes, self.key_of(arena));
        shared.note(|| TraceEvent::SegmentAlloc { address: at, bytes, stream });
        handle
    }

    /// Unmaps the views whose streams are done with them; all of them if `waited`.
    pub(super) fn unmap_doomed(&mut self, shared: &Shared, waited: bool) {
        if shared.captures.any() {
            return;
        }
        let device = &self.device;
        // Many of them have the same event: it is asked once.
        let mut asked: Option<(Arc<Event>, bool)> = None;
        self.doomed.retain(|Doomed { address, bytes, after }| {
            let known = asked.as_ref().filter(|(event, _)| Arc::ptr_eq(event, after));
            let done = match known {
                Some(&(_, done)) => done,
                None => {
                    let done = waited || after.query().unwrap_or(false);
                    asked = Some((Arc::clone(after), done));
                    done
                }
            };
            !(done && unmap(device, *address, *bytes))
        });
    }

    /// Gives a handle back that is idle, whose streams are done. What the driver refuses stays
    /// in the book, out of use.
    pub(super) fn give_back(&mut self, shared: &Shared, id: HandleId) -> bool {
        let bytes = self.pages.handles[id].bytes;
        for address in self.pages.handles[id].views.clone() {
            if !unmap(&self.device, address, bytes) {
                self.pages.keep(id);
                return false;
            }
            self.note_unmapped(shared, id, address);
        }
        let (arena, address) = (self.pages.handles[id].arena, self.pages.handles[id].home);
        let Some(&page) = self.physical.get(&id) else { return false };
        if !destroy_page(&self.device, page) {
            self.pages.keep(id);
            return false;
        }
        self.physical.remove(&id);
        self.pages.remove(id);
        shared.handle_left(self.pool, bytes);
        let stream = self.key_of(arena);
        shared.note(|| TraceEvent::SegmentFree { address, bytes, stream });
        true
    }

    /// Takes a view that owns nothing out of the books.
    pub(super) fn note_unmapped(&mut self, shared: &Shared, id: HandleId, address: u64) {
        let handle = &self.pages.handles[id];
        let (bytes, is_home) = (handle.bytes, handle.home == address);
        let stream = self.pages.arena_of(address).map_or(u64::MAX, |arena| self.key_of(arena));
        self.pages.unmap(address);
        shared.leave_addresses(address);
        shared.count(|stats| stats.mappings -= 1);
        if !is_home {
            shared.note(|| TraceEvent::SegmentUnmap { address, bytes, stream });
        }
    }

    /// The key of an arena's stream.
    fn key_of(&self, arena: u32) -> u64 {
        let number = self.pages.arenas[arena as usize].stream;
        let stream = self.streams.get(number as usize).and_then(Option::as_ref);
        stream.map_or(u64::MAX, |stream| StreamKey::of(stream).raw())
    }

    /// Shows that memory shows at another address of an arena.
    pub(super) fn note_mapped(&self, shared: &Shared, arena: u32, address: u64, bytes: u64) {
        let stream = self.key_of(arena);
        shared.note(|| TraceEvent::SegmentMap { address, bytes, stream });
    }
}

/// What the driver knows of when the books are closed.
#[derive(Debug)]
pub(super) struct Remains {
    pub(super) device: Device,
    pub(super) pages: Pages,
    pub(super) physical: HashMap<HandleId, PageId>,
    pub(super) areas: Vec<Area>,
    pub(super) doomed: Vec<Doomed>,
    pub(super) leaked: HashSet<HandleId>,
    pub(super) strays: Vec<Fresh>,
}

impl Remains {
    /// Gives everything back that is not leaked; the streams are done with all of it.
    pub(super) fn give_back(self) {
        let unmap = |address: u64, bytes: u64| {
            // Nobody will ask again, so what is refused is tried once more at once.
            unmap(&self.device, address, bytes) || unmap(&self.device, address, bytes)
        };
        for Doomed { address, bytes, .. } in &self.doomed {
            unmap(*address, *bytes);
        }
        for Fresh { page, .. } in &self.strays {
            let _ = destroy_page(&self.device, *page) || destroy_page(&self.device, *page);
        }
        for (id, handle) in &self.pages.handles {
            if self.leaked.contains(&id) {
                continue;
            }
            let kept = handle.views.iter().filter(|&&view| !unmap(view, handle.bytes)).count();
            if kept == 0
                && let Some(&page) = self.physical.get(&id)
                && !destroy_page(&self.device, page)
            {
                destroy_page(&self.device, page);
            }
        }
        if self.leaked.is_empty() {
            for Area { at, bytes, .. } in &self.areas {
                let _ = release(&self.device, *at, *bytes) || release(&self.device, *at, *bytes);
            }
        }
    }
}

/// Gives address space back that nothing is mapped in. True if it is gone.
pub(super) fn release(device: &Device, at: u64, bytes: u64) -> bool {
    // SAFETY: the area is of one `reserve`, and no book has a range in it any more.
    let gone = unsafe { device.driver().release(DevicePtr(at), bytes) };
    if let Err(error) = &gone {
        tracing::warn!(%error, "the driver did not take address space back");
    }
    gone.is_ok()
}
