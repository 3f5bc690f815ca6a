//! The driver's stream-ordered pool, as devices without a driver keep it: who may take freed
//! memory before the free has run, and when memory goes back to the device.
//!
//! A request takes, in this order: the best fit among memory nothing stands in the way of, memory
//! freed on the same stream, memory whose free the stream already waits for (follow) and memory
//! whose free has run (opportunistic); new memory of the device; and, where there is none, memory
//! whose free the stream is made to wait for (internal).

use std::collections::BTreeMap;

use super::arena::{Arena, Backing, Status};
use super::contract::PoolAttribute;
use super::order::{Order, Point};
use super::table::Table;
use crate::base::DeviceError;

/// Sizes are rounded to this, as the driver's are.
const UNIT_BYTES: u64 = 512;

/// A free that may not have run: where, and the device's mark there.
#[derive(Debug, Clone)]
struct Freed<M> {
    point: Point,
    mark: M,
}

#[derive(Debug)]
struct Free<M> {
    bytes: u64,
    chunk: u64,
    /// `None` once nothing stands in the way.
    after: Option<Freed<M>>,
}

#[derive(Debug)]
struct Used<M> {
    bytes: u64,
    chunk: u64,
    pool: usize,
    allocated: Freed<M>,
}

#[derive(Debug)]
struct Pool<M> {
    max_bytes: u64,
    threshold_bytes: u64,
    follow: bool,
    opportunistic: bool,
    internal: bool,
    reserved_bytes: u64,
    reserved_high_bytes: u64,
    used_bytes: u64,
    used_high_bytes: u64,
    /// Memory taken from the device, by address.
    chunks: BTreeMap<u64, u64>,
    free: BTreeMap<u64, Free<M>>,
    destroyed: bool,
}

/// The pools of one device. `M` is the device's mark in a stream.
#[derive(Debug)]
pub(super) struct Pools<M> {
    pub(super) order: Order,
    handles: Table<usize>,
    pools: slab::Slab<Pool<M>>,
    used: BTreeMap<u64, Used<M>>,
    /// The pool nobody made; made when it is first asked for.
    default: Option<u64>,
    /// The pool that those draw from who name none, where it is not the default one.
    current: Option<u64>,
}

/// What an allocation got.
#[derive(Debug)]
pub(super) struct Given<M> {
    pub(super) at: u64,
    /// A mark that the stream must be made to wait for before anything else.
    pub(super) wait: Option<M>,
    /// What was taken from the device for it.
    pub(super) grown_bytes: u64,
}

impl<M> Default for Pools<M> {
    fn default() -> Self {
        Self {
            order: Order::default(),
            handles: Table::default(),
            pools: slab::Slab::new(),
            used: BTreeMap::new(),
            default: None,
            current: None,
        }
    }
}

impl<M: Clone> Pools<M> {
    pub(super) fn create(&mut self, max_bytes: u64) -> u64 {
        let pool = self.pools.insert(Pool {
            max_bytes,
            threshold_bytes: 0,
            follow: true,
            opportunistic: true,
            internal: true,
            reserved_bytes: 0,
            reserved_high_bytes: 0,
            used_bytes: 0,
            used_high_bytes: 0,
            chunks: BTreeMap::new(),
            free: BTreeMap::new(),
            destroyed: false,
        });
        self.handles.insert(pool)
    }

    /// The pool that is there without anybody making it.
    pub(super) fn default_pool(&mut self) -> u64 {
        let pool = match self.default {
            Some(pool) => pool,
            None => self.create(0),
        };
        *self.default.insert(pool)
    }

    /// The pool that those draw from who name none.
    pub(super) fn current_pool(&mut self) -> u64 {
        match self.current {
            Some(pool) => pool,
            None => self.default_pool(),
        }
    }

    pub(super) fn set_current_pool(&mut self, pool: u64) -> Result<(), Status> {
        self.handles.get(pool)?;
        self.current = Some(pool);
        Ok(())
    }

    /// Gives a pool up; it goes with its last block, once that free has run.
    pub(super) fn destroy<B: Backing>(
        &mut self,
        pool: u64,
        arena: &mut Arena<B>,
        reached: impl Fn(&M) -> bool,
    ) -> Result<(), Status> {
        if self.default == Some(pool) {
            return Err(DeviceError::INVALID_VALUE);
        }
        let key = self.handles.remove(pool)?;
        if self.current == Some(pool) {
            self.current = None;
        }
        self.pools[key].destroyed = true;
        self.release(arena, reached);
        Ok(())
    }

    /// Takes `bytes` for what is enqueued on `stream` from now on, where `mark` will be.
    pub(super) fn alloc<B: Backing>(
        &mut self,
        pool: u64,
        bytes: u64,
        (stream, mark): (u64, M),
        arena: &mut Arena<B>,
        reached: impl Fn(&M) -> bool,
    ) -> Result<Given<M>, Status> {
        let key = *self.handles.get(pool)?;
        if bytes == 0 {
            return Err(DeviceError::INVALID_VALUE);
        }
        let bytes = bytes.checked_next_multiple_of(UNIT_BYTES).ok_or(DeviceError::OUT_OF_MEMORY)?;
        self.release_destroyed(arena, &reached);
        let (order, pool) = (&mut self.order, &mut self.pools[key]);
        let (follow, opportunistic) = (pool.follow, pool.opportunistic);
        let mut grown_bytes = 0;
        let found = pool.best(bytes, |freed| {
            order.is_seen(freed.point)
                || order.is_own(stream, freed.point)
                || follow && order.is_after(stream, freed.point)
                || opportunistic && reached(&freed.mark)
        });
        let found = match found {
            Some(at) => Ok(at),
            None => pool.grow(bytes, arena).inspect(|_| grown_bytes = arena.rounded(bytes)),
        };
        let at = match found {
            Ok(at) => at,
            Err(status) => {
                self.release_down_to(key, 0, arena, &reached);
                let pool = &mut self.pools[key];
                match pool.grow(bytes, arena) {
                    Ok(at) => {
                        grown_bytes = arena.rounded(bytes);
                        at
                    }
                    Err(_) if pool.internal => pool.best(bytes, |_| true).ok_or(status)?,
                    Err(_) => return Err(status),
                }
            }
        };
        Ok(self.take(key, at, bytes, stream, mark, grown_bytes))
    }

    fn take(
        &mut self,
        key: usize,
        at: u64,
        bytes: u64,
        stream: u64,
        mark: M,
        grown_bytes: u64,
    ) -> Given<M> {
        let pool = &mut self.pools[key];
        let mut wait = None;
        let mut chunk = at;
        if let Some(mut block) = pool.free.remove(&at) {
            chunk = block.chunk;
            let after = block.after.clone();
            if block.bytes > bytes {
                block.bytes -= bytes;
                pool.free.insert(at + bytes, block);
            }
            // The tail keeps its own condition; the part taken is waited for where nothing
            // else orders it.
            if let Some(freed) = after.filter(|freed| !self.order.is_after(stream, freed.point)) {
                self.order.waited_for_point(stream, freed.point);
                wait = Some(freed.mark);
            }
        }
        pool.used_bytes += bytes;
        pool.used_high_bytes = pool.used_high_bytes.max(pool.used_bytes);
        let allocated = Freed { point: self.order.point(stream), mark };
        self.used.insert(at, Used { bytes, chunk, pool: key, allocated });
        Given { at, wait, grown_bytes }
    }

    /// Frees what was allocated at `at` once `stream` gets to `mark`.
    pub(super) fn free(
        &mut self,
        at: u64,
        (stream, mark): (u64, M),
        reached: impl Fn(&M) -> bool,
    ) -> Result<(), Status> {
        let used = self.used.get(&at).ok_or(DeviceError::INVALID_VALUE)?;
        let allocated = &used.allocated;
        if !self.order.is_after(stream, allocated.point)
            && !reached(&allocated.mark)
            && !self.order.is_gated(stream)
        {
            return Err(DeviceError::INVALID_VALUE);
        }
        let point = self.order.point(stream);
        self.give_back(at, Some(Freed { point, mark }))
    }

    /// True when `at` is memory of a pool, allocated or not.
    pub(super) fn owns(&self, at: u64) -> bool {
        self.pools.iter().any(|(_, pool)| {
            let chunk = pool.chunks.range(..=at).next_back();
            chunk.is_some_and(|(&start, &bytes)| start + bytes > at)
        })
    }

    /// Frees what was allocated at `at`, with nothing in flight on it.
    pub(super) fn free_now(&mut self, at: u64) -> Result<(), Status> {
        self.give_back(at, None)
    }

    fn give_back(&mut self, at: u64, after: Option<Freed<M>>) -> Result<(), Status> {
        let used = self.used.remove(&at).ok_or(DeviceError::INVALID_VALUE)?;
        let pool = &mut self.pools[used.pool];
        pool.used_bytes -= used.bytes;
        pool.free.insert(at, Free { bytes: used.bytes, chunk: used.chunk, after });
        pool.merge_around(at);
        Ok(())
    }

    /// Gives unused memory back to the device until at most `keep_bytes` are reserved.
    pub(super) fn trim<B: Backing>(
        &mut self,
        pool: u64,
        keep_bytes: u64,
        arena: &mut Arena<B>,
    ) -> Result<(), Status> {
        let key = *self.handles.get(pool)?;
        // Only what the host has waited for: a free not seen yet holds its memory.
        self.release_down_to(key, keep_bytes, arena, &|_: &M| false);
        Ok(())
    }

    /// The host has waited for something: memory above the thresholds goes back.
    pub(super) fn release<B: Backing>(
        &mut self,
        arena: &mut Arena<B>,
        reached: impl Fn(&M) -> bool,
    ) {
        let keys: Vec<usize> = self.pools.iter().map(|(key, _)| key).collect();
        for key in keys {
            match &self.pools[key] {
                Pool { destroyed: true, .. } => self.release_destroyed_pool(key, arena, &reached),
                &Pool { threshold_bytes, .. } => {
                    self.release_down_to(key, threshold_bytes, arena, &reached);
                }
            }
        }
    }

    /// Gives back what is out of use of pools that were given up: as with the drivers, nobody has
    /// to wait for that. Whoever wants memory, or asks how much there is, has it done before.
    pub(super) fn release_destroyed<B: Backing>(
        &mut self,
        arena: &mut Arena<B>,
        reached: impl Fn(&M) -> bool,
    ) {
        let destroyed = self.pools.iter().filter(|(_, pool)| pool.destroyed);
        let keys: Vec<usize> = destroyed.map(|(key, _)| key).collect();
        for key in keys {
            self.release_destroyed_pool(key, arena, &reached);
        }
    }

    fn release_destroyed_pool<B: Backing>(
        &mut self,
        key: usize,
        arena: &mut Arena<B>,
        reached: &dyn Fn(&M) -> bool,
    ) {
        self.release_down_to(key, 0, arena, reached);
        if self.pools[key].chunks.is_empty() {
            self.pools.remove(key);
        }
    }

    fn release_down_to<B: Backing>(
        &mut self,
        key: usize,
        keep_bytes: u64,
        arena: &mut Arena<B>,
        reached: &dyn Fn(&M) -> bool,
    ) {
        let (order, pool) = (&self.order, &mut self.pools[key]);
        pool.settle(|freed| order.is_seen(freed.point) || reached(&freed.mark));
        let unused: Vec<u64> = pool
            .chunks
            .iter()
            .filter(|(at, bytes)| {
                let block = pool.free.get(at);
                block.is_some_and(|block| block.after.is_none() && block.bytes == **bytes)
            })
            .map(|(&at, _)| at)
            .collect();
        for at in unused {
            let bytes = pool.chunks[&at];
            if pool.reserved_bytes < keep_bytes.saturating_add(bytes) || arena.free(at).is_err() {
                continue;
            }
            pool.chunks.remove(&at);
            pool.free.remove(&at);
            pool.reserved_bytes -= bytes;
        }
    }

    /// False when work enqueued on `stream` now may not touch `bytes` from `at`: memory of a
    /// pool that is not allocated, or whose allocation the stream is not ordered after.
    pub(super) fn may_use(
        &mut self,
        stream: u64,
        at: u64,
        bytes: u64,
        reached: impl Fn(&M) -> bool,
    ) -> bool {
        let end = at.saturating_add(bytes);
        if let Some((&start, used)) = self.used.range(..=at).next_back()
            && end <= start + used.bytes
        {
            let allocated = &used.allocated;
            return self.order.is_after(stream, allocated.point)
                || reached(&allocated.mark)
                || self.order.is_gated(stream);
        }
        !self.pools.iter().any(|(_, pool)| {
            let chunk = pool.chunks.range(..end).next_back();
            chunk.is_some_and(|(&start, &bytes)| start + bytes > at)
        })
    }

    pub(super) fn get(&self, pool: u64, attribute: PoolAttribute) -> Result<u64, Status> {
        let pool = &self.pools[*self.handles.get(pool)?];
        Ok(match attribute {
            PoolAttribute::ReleaseThreshold => pool.threshold_bytes,
            PoolAttribute::FollowEventDependencies => pool.follow.into(),
            PoolAttribute::AllowOpportunistic => pool.opportunistic.into(),
            PoolAttribute::AllowInternalDependencies => pool.internal.into(),
            PoolAttribute::ReservedCurrent => pool.reserved_bytes,
            PoolAttribute::ReservedHigh => pool.reserved_high_bytes,
            PoolAttribute::UsedCurrent => pool.used_bytes,
            PoolAttribute::UsedHigh => pool.used_high_bytes,
        })
    }

    pub(super) fn set(
        &mut self,
        pool: u64,
        attribute: PoolAttribute,
        value: u64,
    ) -> Result<(), Status> {
        let pool = &mut self.pools[*self.handles.get(pool)?];
        let switch = match value {
            0 | 1 => Ok(value == 1),
            _ => Err(DeviceError::INVALID_VALUE),
        };
        match attribute {
            PoolAttribute::ReleaseThreshold => pool.threshold_bytes = value,
            PoolAttribute::FollowEventDependencies => pool.follow = switch?,
            PoolAttribute::AllowOpportunistic => pool.opportunistic = switch?,
            PoolAttribute::AllowInternalDependencies => pool.internal = switch?,
            // Marks can only be reset; they begin again at what is there now.
            PoolAttribute::ReservedHigh if value == 0 => {
                pool.reserved_high_bytes = pool.reserved_bytes;
            }
            PoolAttribute::UsedHigh if value == 0 => pool.used_high_bytes = pool.used_bytes,
            _ => return Err(DeviceError::INVALID_VALUE),
        }
        Ok(())
    }
}

impl<M: Clone> Pool<M> {
    /// The smallest free block that holds `bytes` and is free or passes `may`.
    fn best(&self, bytes: u64, mut may: impl FnMut(&Freed<M>) -> bool) -> Option<u64> {
        let fitting = self
            .free
            .iter()
            .filter(|(_, block)| block.bytes >= bytes && block.after.as_ref().is_none_or(&mut may));
        fitting.min_by_key(|(at, block)| (block.bytes, **at)).map(|(&at, _)| at)
    }

    /// Takes a chunk for `bytes` from the device.
    fn grow<B: Backing>(&mut self, bytes: u64, arena: &mut Arena<B>) -> Result<u64, Status> {
        let chunk_bytes = arena.rounded(bytes);
        let reserved =
            self.reserved_bytes.checked_add(chunk_bytes).ok_or(DeviceError::OUT_OF_MEMORY)?;
        if self.max_bytes > 0 && reserved > self.max_bytes {
            return Err(DeviceError::OUT_OF_MEMORY);
        }
        let at = arena.alloc(chunk_bytes)?;
        self.reserved_bytes = reserved;
        self.reserved_high_bytes = self.reserved_high_bytes.max(reserved);
        self.chunks.insert(at, chunk_bytes);
        self.free.insert(at, Free { bytes: chunk_bytes, chunk: at, after: None });
        Ok(at)
    }

    /// Takes the condition from every block that `done` says nothing stands in the way of.
    fn settle(&mut self, done: impl Fn(&Freed<M>) -> bool) {
        let settled: Vec<u64> = self
            .free
            .iter()
            .filter(|(_, block)| block.after.as_ref().is_some_and(&done))
            .map(|(&at, _)| at)
            .collect();
        for at in settled {
            // A block settled before may have taken this one in.
            if let Some(block) = self.free.get_mut(&at) {
                block.after = None;
                self.merge_around(at);
            }
        }
    }

    /// Joins the block at `at` with free neighbours under the same condition.
    fn merge_around(&mut self, at: u64) {
        let next = self.free.get(&at).map(|block| at + block.bytes);
        if let Some(next) = next {
            self.join(at, next);
        }
        if let Some((&before, _)) = self.free.range(..at).next_back() {
            self.join(before, at);
        }
    }

    fn join(&mut self, first: u64, second: u64) {
        let (Some(one), Some(two)) = (self.free.get(&first), self.free.get(&second)) else {
            return;
        };
        if first + one.bytes != second || one.chunk != two.chunk {
            return;
        }
        let after = match (&one.after, &two.after) {
            (None, None) => None,
            (Some(a), Some(b)) => match Order::later(a.point, b.point) {
                Some(later) if later == a.point => Some(a.clone()),
                Some(_) => Some(b.clone()),
                None => return,
            },
            _ => return,
        };
        let bytes = one.bytes + two.bytes;
        self.free.remove(&second);
        if let Some(block) = self.free.get_mut(&first) {
            (block.bytes, block.after) = (bytes, after);
        }
    }
}
