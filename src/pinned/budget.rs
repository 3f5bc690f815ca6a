//! How much host memory may be pinned.

use super::host_memory::{GroupMemory, HostMemory};
use crate::base::{GIB, format_bytes};
use crate::conf::Conf;

/// Pinned pages cannot be swapped out or moved. So this part of what is free stays the system's, ...
const FREE_PART: u64 = 4;
/// ... and this part of all there is, whatever is free.
const TOTAL_PART: u64 = 8;

/// The hard cap on pinned bytes, and why it is what it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Budget {
    /// The cap.
    pub bytes: u64,
    /// Where it comes from, for people: the bound that is tightest, and the others.
    pub reason: String,
    /// Everything that was considered, the tightest first.
    pub bounds: Vec<BudgetBound>,
}

/// Something that bounds what may be pinned.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct BudgetBound {
    /// What it is, with the figures it was made of.
    pub what: String,
    /// How much it allows.
    pub bytes: u64,
    /// False for what was looked at and does not count.
    pub counts: bool,
}

impl BudgetBound {
    fn new(what: impl Into<String>, bytes: u64) -> Self {
        Self { what: what.into(), bytes, counts: true }
    }
}

impl Budget {
    /// What `conf` says (`pinned_limit_mb`), else what the machine and its control group leave
    /// free, less a reserve for the system: a quarter of what is free, and at least what keeps an
    /// eighth of all there is free. `RLIMIT_MEMLOCK` is told and does not count: the drivers'
    /// registration pins pages by itself, which the kernel charges to nobody's limit; one that is
    /// refused all the same costs no more than the pinning (see
    /// [`PinnedBlock::is_pinned`](super::PinnedBlock::is_pinned)).
    #[must_use]
    pub fn from_conf(conf: &Conf) -> Self {
        let derived = Self::derive(&HostMemory::read(), memlock_bytes());
        match conf.pinned_limit_bytes {
            Some(bytes) => derived.overruled(BudgetBound::new("pinned_limit_mb", bytes)),
            None => derived,
        }
    }

    /// The derivation.
    fn derive(memory: &HostMemory, memlock_bytes: Option<u64>) -> Self {
        let mut bounds = Vec::new();
        if let Some(available) = memory.available_bytes {
            let total = memory.total_bytes.unwrap_or(available);
            bounds.push(left("the machine", available, total));
        }
        if let Some(group) = &memory.group {
            let free = GroupMemory::free_bytes(group);
            bounds.push(left("the control group", free, group.limit_bytes));
        }
        if bounds.is_empty() {
            bounds.push(BudgetBound::new("nothing is known of the machine", GIB));
        }
        bounds.sort_by_key(|bound| bound.bytes);
        if let Some(bytes) = memlock_bytes {
            let what = "RLIMIT_MEMLOCK, which drivers do not count pinned memory against";
            bounds.push(BudgetBound { what: what.into(), bytes, counts: false });
        }
        Self { bytes: bounds[0].bytes, reason: reason(&bounds), bounds }
    }

    /// The same with nothing counting but `bound`.
    fn overruled(mut self, bound: BudgetBound) -> Self {
        self.bounds.iter_mut().for_each(|other| other.counts = false);
        self.bounds.insert(0, bound);
        Self { bytes: self.bounds[0].bytes, reason: self.bounds[0].what.clone(), ..self }
    }
}

/// What `whose` memory allows.
fn left(whose: &str, free: u64, total: u64) -> BudgetBound {
    let reserve = (free / FREE_PART).max(total / TOTAL_PART).min(free);
    let what = format!(
        "{whose} has {} free, of which {} stay the system's",
        format_bytes(free),
        format_bytes(reserve)
    );
    BudgetBound::new(what, free - reserve)
}

/// The bounds as a sentence, the first of which is in force.
fn reason(bounds: &[BudgetBound]) -> String {
    let mut others = bounds.iter().skip(1).map(|bound| {
        let verb = if bound.counts { "would allow" } else { "is" };
        format!("; {verb} {}: {}", format_bytes(bound.bytes), bound.what)
    });
    let first = bounds.first().map_or("", |bound| &bound.what);
    others.by_ref().fold(first.to_owned(), |text, other| text + &other)
}

#[cfg(unix)]
fn memlock_bytes() -> Option<u64> {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Memlock).current
}

#[cfg(not(unix))]
fn memlock_bytes() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(
        total_bytes: Option<u64>,
        available_bytes: Option<u64>,
        group: Option<(u64, u64)>,
    ) -> HostMemory {
        let group = group.map(|(limit_bytes, used_bytes)| GroupMemory {
            version: 2,
            path: "group".into(),
            limit_bytes,
            used_bytes,
        });
        HostMemory { total_bytes, available_bytes, group }
    }

    #[test]
    fn the_tighter_of_machine_and_group_counts() {
        let bytes = |available, group| Budget::derive(&memory(None, available, group), None).bytes;
        assert_eq!(bytes(Some(8 << 20), None), 6 << 20);
        assert_eq!(bytes(Some(8 << 20), Some((64 << 20, 0))), 6 << 20);
        assert_eq!(bytes(Some(8 << 20), Some((4 << 20, 2 << 20))), 3 << 19);
        assert_eq!(bytes(Some(8 << 20), Some((10, 20))), 0, "an overdrawn group leaves nothing");
        assert_eq!(bytes(None, None), GIB);
    }

    #[test]
    fn an_eighth_of_all_there_is_stays_free() {
        let of_64 = |free| Budget::derive(&memory(Some(64), Some(free), None), None).bytes;
        assert_eq!([of_64(64), of_64(16), of_64(9), of_64(8), of_64(0)], [48, 8, 1, 0, 0]);
    }

    #[test]
    fn every_bound_is_told_and_the_tightest_comes_first() {
        let memory = memory(Some(64 << 20), Some(64 << 20), Some((8 << 20, 0)));
        let budget = Budget::derive(&memory, Some(1 << 20));
        let bytes: Vec<_> = budget.bounds.iter().map(|bound| (bound.bytes, bound.counts)).collect();
        assert_eq!(bytes, [(6 << 20, true), (48 << 20, true), (1 << 20, false)]);
        for part in ["the control group has 8.00 MiB", "48.00 MiB: the machine", "MEMLOCK"] {
            assert!(budget.reason.contains(part), "{}", budget.reason);
        }
    }

    #[test]
    fn the_conf_decides_where_it_speaks() {
        let conf = "pinned_limit_mb:3".parse().unwrap();
        let budget = Budget::from_conf(&conf);
        assert_eq!((budget.bytes, &*budget.reason), (3 << 20, "pinned_limit_mb"));
        assert!(budget.bounds.iter().skip(1).all(|bound| !bound.counts));
    }
}
