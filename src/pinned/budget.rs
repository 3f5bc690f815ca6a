//! How much host memory may be pinned.

use super::host_memory::{GroupMemory, HostMemory};
use crate::base::{GIB, format_bytes};
use crate::conf::Conf;

/// The hard cap on pinned bytes, and why it is what it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Budget {
    /// The cap.
    pub bytes: u64,
    /// Where it comes from, for people.
    pub reason: String,
}

impl Budget {
    /// What `conf` says (`pinned_limit_mb`), else half of what the machine and its control
    /// group leave free: pinned pages cannot be swapped out, so the rest stays the system's.
    #[must_use]
    pub fn from_conf(conf: &Conf) -> Self {
        if let Some(bytes) = conf.pinned_limit_bytes {
            return Self { bytes, reason: "pinned_limit_mb".into() };
        }
        Self::derive(&HostMemory::read())
    }

    /// The derivation.
    fn derive(memory: &HostMemory) -> Self {
        let left_in_group = memory.group.as_ref().map(GroupMemory::free_bytes);
        let (free, whose) = match (memory.available_bytes, left_in_group) {
            (Some(available), Some(group)) if group < available => (group, "the control group"),
            (Some(available), _) => (available, "the machine"),
            (None, Some(group)) => (group, "the control group"),
            (None, None) => (2 * GIB, "an unknown machine"),
        };
        Self {
            bytes: free / 2,
            reason: format!("half of the {} {whose} has free", format_bytes(free)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tighter_of_machine_and_group_counts() {
        let bytes = |available_bytes, group: Option<(u64, u64)>| {
            let group = group.map(|(limit_bytes, used_bytes)| GroupMemory {
                version: 2,
                path: "group".into(),
                limit_bytes,
                used_bytes,
            });
            Budget::derive(&HostMemory { total_bytes: None, available_bytes, group }).bytes
        };
        assert_eq!(bytes(Some(8 << 20), None), 4 << 20);
        assert_eq!(bytes(Some(8 << 20), Some((64 << 20, 0))), 4 << 20);
        assert_eq!(bytes(Some(8 << 20), Some((3 << 20, 1 << 20))), 1 << 20);
        assert_eq!(bytes(Some(8 << 20), Some((10, 20))), 0, "an overdrawn group leaves nothing");
        assert_eq!(bytes(None, None), GIB);
    }

    #[test]
    fn the_conf_decides_where_it_speaks() {
        let conf = "pinned_limit_mb:3".parse().unwrap();
        assert_eq!(Budget::from_conf(&conf).bytes, 3 << 20);
    }
}
