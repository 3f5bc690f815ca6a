//! What host memory there is, and what limits it: the machine's, and the control group's of this
//! process.

use std::path::{Path, PathBuf};

/// Host memory and its limits at one moment, in bytes; `None` for what the system does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct HostMemory {
    /// What the machine has.
    pub total_bytes: Option<u64>,
    /// What new work can have without swapping (`MemAvailable`).
    pub available_bytes: Option<u64>,
    /// The control group that leaves least; `None` where none limits memory.
    pub group: Option<GroupMemory>,
}

/// A control group's limit on memory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct GroupMemory {
    /// 1 or 2: the version of the kernel's interface.
    pub version: u32,
    /// Its directory.
    pub path: PathBuf,
    /// The limit, in bytes.
    pub limit_bytes: u64,
    /// What counts against it and cannot be dropped: without the cache of files nobody uses now.
    pub used_bytes: u64,
}

impl GroupMemory {
    /// What is left of the limit, in bytes.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }
}

/// The names of a version's files.
struct Files {
    version: u32,
    limit: &'static str,
    used: &'static str,
    cache: &'static str,
}

const FIRST: Files = Files {
    version: 1,
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};
const SECOND: Files =
    Files { version: 2, limit: "memory.max", used: "memory.current", cache: "inactive_file" };

/// Limits from here on are the first version's way to say that there is none.
const NO_LIMIT: u64 = 1 << 62;

impl HostMemory {
    /// Reads the system's files. Never fails.
    #[must_use]
    pub fn read() -> Self {
        Self::read_below(Path::new("/"))
    }

    /// The same below another root.
    pub(super) fn read_below(root: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        let meminfo = read("proc/meminfo");
        let groups = groups(&read("proc/self/cgroup"), &root.join("sys/fs/cgroup"));
        Self {
            total_bytes: of_meminfo(&meminfo, "MemTotal:"),
            available_bytes: of_meminfo(&meminfo, "MemAvailable:"),
            group: groups.into_iter().min_by_key(GroupMemory::free_bytes),
        }
    }
}

fn of_meminfo(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Every group above this process that has a limit, by the process's list of its groups.
fn groups(list: &str, mount: &Path) -> Vec<GroupMemory> {
    let mut found = Vec::new();
    for line in list.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (files, top) = match controllers {
            "" => (&SECOND, mount.to_owned()),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (&FIRST, mount.join("memory"))
            }
            _ => continue,
        };
        // In a container the path may be the host's, of which only the top is to be seen.
        let own = top.join(path.trim_start_matches('/'));
        let chain = own.ancestors().take_while(|dir| dir.starts_with(&top));
        found.extend(chain.filter_map(|dir| limit_of(dir, files)));
    }
    found
}

fn limit_of(dir: &Path, files: &Files) -> Option<GroupMemory> {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let limit_bytes = number(files.limit).filter(|&bytes| bytes < NO_LIMIT)?;
    let stat = read("memory.stat").unwrap_or_default();
    let cache = stat.lines().find_map(|line| line.strip_prefix(files.cache)?.trim().parse().ok());
    let used_bytes = number(files.used).unwrap_or(0).saturating_sub(cache.unwrap_or(0));
    Some(GroupMemory { version: files.version, path: dir.into(), limit_bytes, used_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_tightest_group_on_the_way_up_counts() {
        let root = root(&[
            ("proc/meminfo", "MemTotal:  16 kB\nMemAvailable:    8 kB\n"),
            ("proc/self/cgroup", "0::/jobs/mine\n"),
            ("sys/fs/cgroup/jobs/memory.max", "5000\n"),
            ("sys/fs/cgroup/jobs/memory.current", "4500\n"),
            ("sys/fs/cgroup/jobs/memory.stat", "anon 7\ninactive_file 1500\n"),
            ("sys/fs/cgroup/jobs/mine/memory.max", "max\n"),
        ]);
        let memory = HostMemory::read_below(root.path());
        assert_eq!((memory.total_bytes, memory.available_bytes), (Some(16 << 10), Some(8 << 10)));
        let group = memory.group.unwrap();
        assert_eq!((group.version, group.used_bytes, group.free_bytes()), (2, 3000, 2000));
        assert!(group.path.ends_with("cgroup/jobs"));
    }

    #[test]
    fn groups_of_the_first_version_are_read_too_and_a_huge_limit_is_none() {
        let first = "sys/fs/cgroup/memory/";
        let limit = |text| {
            root(&[
                ("proc/self/cgroup", "3:cpu,cpuacct:/x\n2:memory:/box\n1:name=systemd:/\n"),
                (&format!("{first}box/memory.limit_in_bytes"), text),
                (&format!("{first}box/memory.usage_in_bytes"), "300"),
                (&format!("{first}memory.limit_in_bytes"), "9223372036854771712"),
            ])
        };
        let group = HostMemory::read_below(limit("1000").path()).group.unwrap();
        assert_eq!((group.version, group.limit_bytes, group.used_bytes), (1, 1000, 300));
        let none = HostMemory::read_below(limit("9223372036854771712").path());
        assert_eq!(none, HostMemory::default());
    }

    #[test]
    fn files_that_are_absent_or_nonsense_tell_nothing() {
        assert_eq!(HostMemory::read_below(root(&[]).path()), HostMemory::default());
        let nonsense = root(&[
            ("proc/meminfo", "MemAvailable: 99999999999999999999 kB\nMemTotal: few\n"),
            ("proc/self/cgroup", "0::/../../..\n\n::::\nmemory"),
            ("sys/fs/cgroup/memory.max", "-5"),
        ]);
        assert_eq!(HostMemory::read_below(nonsense.path()), HostMemory::default());
    }
}
