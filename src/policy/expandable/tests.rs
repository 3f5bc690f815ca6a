//! The deciding half alone: random programs over two arenas, with no driver and no pool.

use proptest::prelude::*;

use super::*;
use crate::ledger::{BlockId, NewSegment, SplitChange, State};

const ARENAS: u32 = 2;
const HOME_BYTES: u64 = 1 << 34;

/// Two streams' ledgers, with the free bytes that the changes add up to.
#[derive(Debug, Default)]
struct Books {
    ledgers: Vec<Ledger>,
    free_bytes: i64,
}

impl Ledgers for Books {
    fn of(&mut self, arena: u32) -> &mut Ledger {
        &mut self.ledgers[arena as usize]
    }

    fn changed(&mut self, _arena: u32, split: SplitChange) {
        self.free_bytes += split.bytes;
    }
}

#[derive(Debug)]
struct World {
    pages: Pages,
    books: Books,
    /// Blocks in use: arena, block, first byte, size.
    live: Vec<(u32, BlockId, u64, u64)>,
    runs: u64,
}

impl World {
    fn new() -> Self {
        let (pages, books) = (Pages::default(), Books::default());
        let mut world = Self { pages, books, live: Vec::new(), runs: 0 };
        for number in 0..ARENAS {
            world.books.ledgers.push(Ledger::default());
            let at = u64::from(number + 1) << 44;
            let home = world.range(number, at);
            let arena = Arena { stream: number, home: Some(home), brk: at, ..Arena::default() };
            world.pages.arenas.push(arena);
        }
        world
    }

    fn range(&mut self, arena: u32, at: u64) -> RangeId {
        let (bytes, serial) = (HOME_BYTES, self.runs as u32);
        let new = NewSegment { address: at, bytes, class: CLASS, stream: 0, serial };
        let segment = self.books.of(arena).add_range(new);
        self.pages.ranges.insert(Range { arena, segment, start: at, end: at, limit: at + bytes })
    }

    fn grow(&mut self, arena: u32, pages: u64) {
        let home = self.pages.arenas[arena as usize].home.unwrap();
        let at = self.pages.ranges[home].end;
        // Only behind all that is there, as the pool does.
        if self.pages.arenas[arena as usize].brk != at {
            return;
        }
        let id = self.pages.add(pages * PAGE_BYTES, at, home);
        self.claim(arena, at, pages * PAGE_BYTES);
        let arena = &mut self.pages.arenas[arena as usize];
        arena.home_handles.push(id);
        arena.home_used += 1;
        arena.brk = at + pages * PAGE_BYTES;
    }

    fn take(&mut self, arena: u32, bytes: u64) -> bool {
        let ledger = self.books.of(arena);
        let Some(id) = ledger.best_fit(CLASS, bytes) else { return false };
        let change = ledger.take(id, bytes, bytes);
        let address = ledger[id].address;
        self.books.changed(arena, change);
        self.live.push((arena, id, address, bytes));
        true
    }

    /// As the pool climbs, with as much new memory as it takes.
    fn request(&mut self, arena: u32, bytes: u64) {
        if self.take(arena, bytes) {
            return;
        }
        if let Some(at) = shortest_run(&self.pages, &mut self.books, arena, bytes) {
            return self.take_at(arena, at, bytes);
        }
        let plan = chain(&self.pages, &mut self.books, arena, bytes, true);
        let range = plan.range.unwrap_or_else(|| {
            self.runs += 1;
            let at = (u64::from(arena + 1) << 44) + (1 << 43) + self.runs * HOME_BYTES * 2;
            let range = self.range(arena, at);
            self.pages.arenas[arena as usize].runs.push(range);
            range
        });
        let start = self.pages.ranges[range].end;
        let mut at = start;
        for &handle in &plan.maps {
            self.pages.map(at, handle, range);
            at += self.pages.handles[handle].bytes;
        }
        if plan.create_bytes > 0 {
            self.pages.add(plan.create_bytes, at, range);
            at += plan.create_bytes;
        }
        if let Some(handle) = plan.last {
            self.pages.map(at, handle, range);
        }
        self.take_at(arena, start - plan.prefix_bytes + plan.skip_bytes, bytes);
    }

    fn take_at(&mut self, arena: u32, address: u64, bytes: u64) {
        for user in self.users(address, bytes, arena) {
            self.pages.note_order(user, arena);
        }
        assert_eq!(self.users(address, bytes, arena).len(), self.owners(address, bytes, arena));
        self.claim(arena, address, bytes);
        let (_, view) = self.pages.views.range(..=address).next_back().unwrap();
        let segment = self.pages.ranges[view.range].segment;
        let (id, change) = self.books.of(arena).part_at(segment, address);
        self.books.changed(arena, change);
        let change = self.books.of(arena).take(id, bytes, bytes);
        self.books.changed(arena, change);
        self.live.push((arena, id, address, bytes));
    }

    fn users(&mut self, address: u64, bytes: u64, arena: u32) -> Vec<u32> {
        let site = self.pages.site((address, bytes)).expect("not all of it is mapped");
        let parcel = self.pages.parcel(&mut self.books, &site, arena);
        parcel.expect("not all of it is free").users
    }

    fn claim(&mut self, arena: u32, address: u64, bytes: u64) {
        let site = self.pages.site((address, bytes)).expect("not all of it is mapped");
        let parcel = self.pages.parcel(&mut self.books, &site, arena);
        self.pages.claim(&mut self.books, &parcel.expect("not all of it is free"));
    }

    /// How many other arenas own bytes of these now: these may free more at any time, so their
    /// order is never done with before the claim.
    fn owners(&self, address: u64, bytes: u64, arena: u32) -> usize {
        let physical = self.physical(address, bytes);
        let other = self.pages.views.iter().any(|(&at, view)| {
            let handle = &self.pages.handles[view.handle];
            let theirs = self.pages.ranges[view.range].arena != arena;
            theirs
                && physical
                    .iter()
                    .any(|&(id, from, to)| id == view.handle && handle.owns_within(at, from, to))
        });
        usize::from(other)
    }

    fn physical(&self, address: u64, bytes: u64) -> Vec<(HandleId, u64, u64)> {
        let (mut at, mut parts) = (address, Vec::new());
        while at < address + bytes {
            let (&start, view) = self.pages.views.range(..=at).next_back().unwrap();
            let to = self.pages.handles[view.handle].bytes.min(address + bytes - start);
            parts.push((view.handle, at - start, to));
            at = start + to;
        }
        parts
    }

    fn check(&mut self) -> Result<(), String> {
        self.pages.check(&mut self.books)?;
        let mut used: Vec<(HandleId, u64, u64)> = Vec::new();
        for &(arena, id, address, bytes) in &self.live {
            let block = &self.books.ledgers[arena as usize][id];
            if (block.state, block.address, block.bytes) != (State::Active, address, bytes) {
                return Err(format!("the block at {address:#x} is not what was taken"));
            }
            used.extend(self.physical(address, bytes));
        }
        used.sort_unstable();
        if used.windows(2).any(|pair| pair[0].0 == pair[1].0 && pair[0].2 > pair[1].1) {
            return Err("two blocks share a byte".into());
        }
        let mut in_ledgers = 0;
        let mut live_bytes = 0;
        for ledger in &self.books.ledgers {
            ledger.check()?;
            in_ledgers += ledger.totals().reserved_bytes;
            live_bytes += ledger.totals().active_bytes;
        }
        if in_ledgers + self.pages.idle_bytes() != self.pages.reserved_bytes {
            return Err("idle, free and used do not make up what is reserved".into());
        }
        if self.books.free_bytes != (in_ledgers - live_bytes) as i64 {
            return Err("the changes do not add up".into());
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Grow(u32, u64),
    Request(u32, u64),
    Free(usize),
    Reset,
    TakeUp(u32, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let arena = || 0..ARENAS;
    let step = prop_oneof![
        2 => (arena(), 1..6u64).prop_map(|(arena, pages)| Step::Grow(arena, pages)),
        5 => (arena(), 1..20_000u64).prop_map(|(arena, n)| Step::Request(arena, n * 1024)),
        5 => any::<usize>().prop_map(Step::Free),
        1 => Just(Step::Reset),
        1 => (arena(), 1..9u64).prop_map(|(arena, pages)| Step::TakeUp(arena, pages)),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn every_byte_has_one_place(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Grow(arena, pages) => world.grow(arena, pages),
                Step::Request(arena, bytes) => world.request(arena, bytes),
                Step::Free(at) if !world.live.is_empty() => {
                    let (arena, id, ..) = world.live.swap_remove(at % world.live.len());
                    let change = world.books.of(arena).give_back(id, 0);
                    world.books.changed(arena, change);
                }
                Step::Reset => {
                    for (arena, id, ..) in std::mem::take(&mut world.live) {
                        let change = world.books.of(arena).give_back(id, 0);
                        world.books.changed(arena, change);
                    }
                    world.pages.reset(&mut world.books);
                    prop_assert_eq!(world.pages.idle_bytes(), world.pages.reserved_bytes);
                    prop_assert_eq!(world.books.free_bytes, 0);
                }
                Step::TakeUp(arena, pages) => {
                    world.pages.take_up(&mut world.books, arena, pages * PAGE_BYTES);
                }
                Step::Free(_) => {}
            }
            prop_assert_eq!(world.check(), Ok(()));
        }
    }
}

#[test]
fn what_became_idle_is_waited_for_once() {
    let mut world = World::new();
    world.grow(0, 2);
    world.pages.reset(&mut world.books);
    let at = world.pages.arenas[0].brk;
    assert_eq!(world.users(at, PAGE_BYTES, 1), [0], "stream 0 may still use it");
    assert_eq!(world.users(at, PAGE_BYTES, 0), [0u32; 0], "its own order is enough");
    world.pages.note_order(0, 1);
    assert_eq!(world.users(at, 2 * PAGE_BYTES, 1), [0u32; 0], "one wait covers all of it");
    world.pages.reset(&mut world.books);
    assert_eq!(world.users(at, PAGE_BYTES, 1), [0u32; 0], "nobody used it since");
    world.claim(0, at, PAGE_BYTES);
    world.pages.reset(&mut world.books);
    assert_eq!(world.users(at, PAGE_BYTES, 1), [0], "a later use, a later wait");
}

#[test]
fn a_chain_goes_on_only_where_its_handles_have_room() {
    let mut world = World::new();
    // All that is free: a handle far larger than the request, and one at the end of a range.
    world.grow(0, 512);
    let run = world.range(0, 1 << 46);
    world.pages.arenas[0].runs.push(run);
    let start = world.pages.ranges[run].start;
    world.pages.add(PAGE_BYTES, start, run);
    let mut range_with = |pages: u64| {
        world.pages.ranges[run].limit = start + (1 + pages) * PAGE_BYTES;
        let plan = chain(&world.pages, &mut world.books, 0, 4 * PAGE_BYTES, true);
        assert_eq!(plan.mapped_bytes(&world.pages), 512 * PAGE_BYTES);
        plan.range
    };
    assert_eq!(range_with(511), None);
    assert_eq!(range_with(512), None, "the last page stays absent");
    assert_eq!(range_with(513), Some(run));
}
