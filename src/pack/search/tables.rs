//! What a search looks up: who overlaps whom, who is alive in which section, who is whose twin.

use crate::pack::instance::Instance;

/// Lists of numbers, one behind the other.
#[derive(Debug)]
pub(in crate::pack) struct Lists {
    all: Vec<u32>,
    from: Vec<u32>,
}

impl Lists {
    fn new(lists: Vec<Vec<u32>>) -> Self {
        let mut from = vec![0];
        let mut all = Vec::new();
        for list in lists {
            all.extend(list);
            from.push(all.len() as u32);
        }
        Self { all, from }
    }

    /// Where the list of `at` lies, for loops that change other fields meanwhile.
    pub(super) fn range(&self, at: u32) -> std::ops::Range<usize> {
        self.from[at as usize] as usize..self.from[at as usize + 1] as usize
    }

    pub(super) fn get(&self, place: usize) -> u32 {
        self.all[place]
    }

    pub(in crate::pack) fn list(&self, at: u32) -> &[u32] {
        &self.all[self.range(at)]
    }
}

/// The items that overlap each item in time.
pub(in crate::pack) fn neighbours(instance: &Instance) -> Lists {
    let items = &instance.items;
    let mut lists = vec![Vec::new(); items.len()];
    let mut by_first: Vec<u32> = (0..items.len() as u32).collect();
    by_first.sort_unstable_by_key(|&at| items[at as usize].first);
    for (place, &at) in by_first.iter().enumerate() {
        for &other in &by_first[place + 1..] {
            if items[other as usize].first >= items[at as usize].end {
                break;
            }
            lists[at as usize].push(other);
            lists[other as usize].push(at);
        }
    }
    Lists::new(lists)
}

/// The items alive in each section.
pub(super) fn members(instance: &Instance) -> Lists {
    let mut lists = vec![Vec::new(); instance.loads.len()];
    for (at, item) in instance.items.iter().enumerate() {
        for section in item.sections() {
            lists[section].push(at as u32);
        }
    }
    Lists::new(lists)
}

/// For each item the next one of the same sections and size, in a circle.
pub(super) fn twins(instance: &Instance) -> Vec<u32> {
    let key = |at: u32| {
        let item = instance.items[at as usize];
        (item.first, item.end, item.bytes)
    };
    let mut twin: Vec<u32> = (0..instance.items.len() as u32).collect();
    let mut order = twin.clone();
    order.sort_unstable_by_key(|&at| (key(at), at));
    for group in order.chunk_by(|&a, &b| key(a) == key(b)) {
        for (place, &at) in group.iter().enumerate() {
            twin[at as usize] = group[(place + 1) % group.len()];
        }
    }
    twin
}
