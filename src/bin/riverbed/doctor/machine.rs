//! The machine around the devices: processors, host memory, and what of it may be pinned.

use std::fs::{read_dir, read_to_string};

use riverbed::conf::Conf;
use riverbed::pinned::{Budget, HostMemory};
use rustix::process::{Resource, getrlimit};

#[derive(serde::Serialize)]
pub(super) struct Machine {
    /// Processors this process may use.
    pub(super) cpus: Option<usize>,
    pub(super) numa_nodes: Option<usize>,
    pub(super) memory: HostMemory,
    /// `RLIMIT_MEMLOCK`, in bytes; none where it is unlimited.
    pub(super) memlock_bytes: Option<u64>,
    /// How much Riverbed pins at most, under the conf in force.
    pub(super) pinned_budget: Budget,
    /// `always`, `madvise` or `never`.
    pub(super) transparent_huge_pages: Option<String>,
}

impl Machine {
    pub(super) fn read(conf: &Conf) -> Self {
        let huge = read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok();
        Self {
            cpus: std::thread::available_parallelism().ok().map(Into::into),
            numa_nodes: numa_nodes(),
            memory: HostMemory::read(),
            memlock_bytes: getrlimit(Resource::Memlock).current,
            pinned_budget: Budget::from_conf(conf),
            transparent_huge_pages: huge.as_deref().and_then(chosen).map(String::from),
        }
    }
}

fn numa_nodes() -> Option<usize> {
    let entries = read_dir("/sys/devices/system/node").ok()?.flatten();
    let nodes = entries.filter(|entry| {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("node"));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    });
    Some(nodes.count()).filter(|&count| count > 0)
}

/// The word in brackets, as the kernel shows a choice.
fn chosen(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_stands_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), Some("madvise"));
        assert_eq!(chosen("always madvise never"), None);
        assert_eq!(chosen("]["), None);
    }
}
