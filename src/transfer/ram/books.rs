//! What a cache knows: which components there are, which are in use, which come next, and which
//! home keeps what. Holds no memory of its own.

use std::collections::HashMap;
use std::sync::Arc;

use super::order::{Kept, NextUse};
use crate::device::Device;
use crate::transfer::files::FileSet;
use crate::transfer::home::{Holding, HomeCell};
use crate::weights::ReadSpan;

/// What makes two homes the same: the component's number, its files, and what of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) component: usize,
    pub(super) files: Arc<FileSet>,
    pub(super) spans: Arc<[ReadSpan]>,
}

/// How a unit is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transfer) enum Need {
    /// Streamed: needed in every pass.
    EveryPass,
    /// Resident: needed when its component is loaded again.
    NextLoad,
}

/// A home's place in the order of what makes room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) component: usize,
    /// Its number among the units of its component, in the order they were asked for.
    pub(super) unit: u32,
    pub(super) need: Need,
}

#[derive(Debug)]
struct Component {
    name: String,
    /// Leases that say it is in use.
    leases: usize,
    /// When it was used last, in components used since the cache was made.
    used: u64,
    units: u32,
}

#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) budget_bytes: u64,
    components: Vec<Component>,
    homes: HashMap<Key, (Standing, Arc<HomeCell>)>,
    /// Components by name, in the order they will be used.
    expected: Vec<String>,
    /// The first of these that has not begun.
    step: usize,
    /// Components that were used so far, each time counted.
    used: u64,
}

/// What may make room.
#[derive(Debug, Default)]
pub(super) struct Offers {
    /// By number.
    pub(super) kept: Vec<Kept>,
    /// The homes of these numbers.
    pub(super) homes: Vec<Arc<HomeCell>>,
    /// There is more that cannot be had now.
    pub(super) some_busy: bool,
}

impl Books {
    /// Nothing known, under a budget.
    pub(super) fn new(budget_bytes: u64) -> Self {
        Self { budget_bytes, ..Self::default() }
    }

    /// The number of a component.
    pub(super) fn component(&mut self, name: &str) -> usize {
        let known = self.components.iter().position(|component| component.name == name);
        known.unwrap_or_else(|| {
            let name = name.to_owned();
            self.components.push(Component { name, leases: 0, used: self.used, units: 0 });
            self.components.len() - 1
        })
    }

    /// What will be used, in order, from now on.
    pub(super) fn expect(&mut self, names: Vec<String>) {
        (self.expected, self.step) = (names, 0);
    }

    /// A component begins to be used: what was expected before it is over.
    pub(super) fn begin(&mut self, name: &str) -> usize {
        let at = self.component(name);
        let later = self.expected.get(self.step..).unwrap_or_default();
        if let Some(steps) = later.iter().position(|expected| expected == name) {
            self.step += steps + 1;
        }
        self.used += 1;
        self.components[at].used = self.used;
        self.components[at].leases += 1;
        at
    }

    pub(super) fn again(&mut self, component: usize) {
        self.components[component].leases += 1;
    }

    pub(super) fn end(&mut self, component: usize) {
        self.components[component].leases -= 1;
    }

    /// The home of a key, if there is one that can be used.
    pub(super) fn find(&mut self, key: &Key, need: Option<Need>) -> Option<Arc<HomeCell>> {
        let (standing, home) = self.homes.get_mut(key)?;
        home.status.check().ok()?;
        if let Some(need) = need {
            standing.need = need;
        }
        Some(Arc::clone(home))
    }

    /// Enters a home; one that could not be read goes. Those that nobody has and that hold nothing
    /// are forgotten.
    pub(super) fn enter(&mut self, key: Key, need: Need, home: &Arc<HomeCell>) {
        self.homes.retain(|_, (_, home)| Arc::strong_count(home) > 1 || !home.is_empty());
        let Some(component) = self.components.get_mut(key.component) else { return };
        let standing = Standing { component: key.component, unit: component.units, need };
        component.units = component.units.saturating_add(1);
        let standing = match self.homes.remove(&key) {
            Some((before, _)) => Standing { need, ..before },
            None => standing,
        };
        self.homes.insert(key, (standing, Arc::clone(home)));
    }

    /// The place of a home in the order.
    pub(super) fn standing(&self, key: &Key) -> Option<Standing> {
        self.homes.get(key).map(|(standing, _)| *standing)
    }

    /// When a home is needed next.
    pub(super) fn next_use(&self, standing: Standing) -> NextUse {
        let Standing { component, unit, need } = standing;
        let Some(component) = self.components.get(component) else {
            return NextUse::Unknown(u64::MAX, unit);
        };
        if component.leases > 0 && need == Need::EveryPass {
            return NextUse::Now;
        }
        let later = self.expected.get(self.step..).unwrap_or_default();
        match later.iter().position(|name| *name == component.name) {
            Some(steps) => NextUse::Step(steps as u64, unit),
            None => NextUse::Unknown(self.used - component.used, unit),
        }
    }

    /// What may make room in the memory of `device`, or of any.
    pub(super) fn kept(&self, device: Option<&Device>) -> Offers {
        let mut offers = Offers::default();
        for (standing, home) in self.homes.values() {
            match home.holding() {
                Holding::Nothing => {}
                Holding::Busy => offers.some_busy = true,
                Holding::Idle(bytes, of) if device.is_none_or(|device| *device == of) => {
                    let (id, next) = (offers.homes.len(), self.next_use(*standing));
                    offers.kept.push(Kept { id, bytes, next });
                    offers.homes.push(Arc::clone(home));
                }
                Holding::Idle(..) => {}
            }
        }
        offers
    }

    /// Homes that have memory.
    pub(super) fn units(&self) -> u64 {
        let has = |home: &HomeCell| !matches!(home.holding(), Holding::Nothing);
        self.homes.values().filter(|(_, home)| has(home)).count() as u64
    }

    /// Takes a home out.
    pub(super) fn forget(&mut self, key: &Key) {
        self.homes.remove(key);
    }
}
