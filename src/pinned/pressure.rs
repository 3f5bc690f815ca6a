//! Whether the system is short of memory.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::host_memory::HostMemory;
use crate::base::sync::try_lock;

/// The system is asked this often at most: reading its files takes some 0.1 ms.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Memory is short when tasks stood still for it more than this part of the last ten seconds ...
const STALLED_PERCENT: f64 = 10.0;
/// ... or when less than one part in so many is left.
const LEAST_PART: u64 = 32;

/// Looks at the system now and then.
#[derive(Debug, Default)]
pub(super) struct PressureWatch {
    asked: Mutex<Option<Instant>>,
}

impl PressureWatch {
    /// Why memory is short, if it is and nobody asked within the last second.
    pub(super) fn look(&self) -> Option<String> {
        let mut asked = try_lock(&self.asked)?;
        if asked.is_some_and(|at| at.elapsed() < ASK_EVERY) {
            return None;
        }
        *asked = Some(Instant::now());
        pressure_below(Path::new("/"))
    }
}

/// Why memory is short, if it is, by the files below a root.
fn pressure_below(root: &Path) -> Option<String> {
    let memory = HostMemory::read_below(root);
    let is_short = |free: u64, of: u64| free < of / LEAST_PART;
    if let Some(group) = &memory.group
        && is_short(group.free_bytes(), group.limit_bytes)
    {
        return Some(format!("the control group {} is nearly full", group.path.display()));
    }
    if let (Some(total), Some(available)) = (memory.total_bytes, memory.available_bytes)
        && is_short(available, total)
    {
        return Some("the machine has hardly any memory left".into());
    }
    // Of the group that limits this process; of the machine where none does.
    let group = memory.group.map(|group| group.path.join("memory.pressure"));
    let files: [Option<PathBuf>; 2] = [group, Some(root.join("proc/pressure/memory"))];
    let text = files.into_iter().flatten().find_map(|path| std::fs::read_to_string(path).ok())?;
    let stalled = stalled_percent(&text)?;
    (stalled > STALLED_PERCENT)
        .then(|| format!("tasks stand still for memory {stalled} % of the time"))
}

/// The part of the last ten seconds in which some task waited for memory.
fn stalled_percent(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn why(files: &[(&str, &str)]) -> Option<String> {
        pressure_below(root(files).path())
    }

    #[test]
    fn memory_is_short_where_little_is_left_or_tasks_wait_for_it() {
        let calm =
            ("proc/pressure/memory", "some avg10=9.99 avg60=0.00 total=1\nfull avg10=50.0\n");
        let tense = ("proc/pressure/memory", "some avg10=10.01 avg60=0.00 total=1\n");
        let plenty = ("proc/meminfo", "MemTotal: 64 kB\nMemAvailable: 2 kB\n");
        let scarce = ("proc/meminfo", "MemTotal: 64 kB\nMemAvailable: 1 kB\n");
        assert_eq!(why(&[calm, plenty]), None);
        assert!(why(&[tense, plenty]).unwrap().contains("10.01 %"));
        assert!(why(&[calm, scarce]).unwrap().contains("machine"));
        assert_eq!(why(&[]), None);
        assert_eq!(why(&[("proc/pressure/memory", "some avg10=lots\n")]), None);
    }

    #[test]
    fn a_full_group_counts_and_its_own_pressure_before_the_machines() {
        let own = ("proc/self/cgroup", "0::/mine\n");
        let limit = ("sys/fs/cgroup/mine/memory.max", "6400\n");
        let full = ("sys/fs/cgroup/mine/memory.current", "6300\n");
        let half = ("sys/fs/cgroup/mine/memory.current", "3000\n");
        assert!(why(&[own, limit, full]).unwrap().contains("nearly full"));
        let tense = ("proc/pressure/memory", "some avg10=80.00\n");
        let calm = ("sys/fs/cgroup/mine/memory.pressure", "some avg10=0.00\n");
        assert_eq!(why(&[own, limit, half, tense, calm]), None);
        assert!(why(&[own, limit, half, tense]).is_some());
    }

    #[test]
    fn the_system_is_not_asked_all_the_time() {
        let watch = PressureWatch::default();
        watch.look();
        let first = *watch.asked.lock().unwrap();
        assert!(first.is_some());
        assert_eq!(watch.look(), None);
        assert_eq!(*watch.asked.lock().unwrap(), first);
    }
}
