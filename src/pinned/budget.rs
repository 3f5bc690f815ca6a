//! How much host memory may be pinned.

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
        let read = |path: &str| std::fs::read_to_string(path).ok();
        Self::derive(
            read("/proc/meminfo").as_deref(),
            read("/sys/fs/cgroup/memory.max").as_deref(),
            read("/sys/fs/cgroup/memory.current").as_deref(),
        )
    }

    /// The derivation, from the texts of the system's files.
    fn derive(meminfo: Option<&str>, cgroup_max: Option<&str>, cgroup_now: Option<&str>) -> Self {
        let available = meminfo.and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1024)
        });
        let number = |text: Option<&str>| text.and_then(|text| text.trim().parse::<u64>().ok());
        let left_in_group =
            number(cgroup_max).map(|max| max.saturating_sub(number(cgroup_now).unwrap_or(0)));
        let (free, whose) = match (available, left_in_group) {
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

    const MEMINFO: &str = "MemTotal: 9 kB\nMemAvailable:    8192 kB\n";

    #[test]
    fn the_tighter_of_machine_and_group_counts() {
        let bytes = |group, now| Budget::derive(Some(MEMINFO), group, now).bytes;
        assert_eq!(bytes(None, None), 4 << 20);
        assert_eq!(bytes(Some("max\n"), Some("5")), 4 << 20);
        assert_eq!(bytes(Some("3145728\n"), Some("1048576\n")), 1 << 20);
        assert_eq!(bytes(Some("10"), Some("20")), 0, "an overdrawn group leaves nothing");
        assert_eq!(Budget::derive(None, None, None).bytes, GIB);
    }

    #[test]
    fn the_conf_decides_where_it_speaks() {
        let conf = "pinned_limit_mb:3".parse().unwrap();
        assert_eq!(Budget::from_conf(&conf).bytes, 3 << 20);
    }
}
