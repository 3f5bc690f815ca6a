//! The allocator's figures by the names and in the order of PyTorch's `torch.cuda.memory_stats()`,
//! for tools that know those.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::allocator::Allocator;
use super::stats::{PoolStat, Stat, Stats};
use crate::base::format_bytes;

impl Allocator {
    /// What `torch.cuda.memory_stats()` of PyTorch 2.15 gives for a device, flattened and sorted
    /// as there: `allocated_bytes.all.current`, `num_ooms`, and so on. Sizes in bytes;
    /// `max_split_size` is -1 for unlimited. A private pool's id stands where PyTorch has a pair,
    /// as `0_ID`.
    ///
    /// ```
    /// # use riverbed::device::Device;
    /// # use riverbed::pool::Allocator;
    /// let device = Device::open("host:vram=64MiB")?;
    /// let allocator = Allocator::builder(&device).build()?;
    /// assert_eq!(allocator.pytorch_stats()["max_split_size"], -1);
    /// # Ok::<(), riverbed::Error>(())
    /// ```
    #[must_use]
    pub fn pytorch_stats(&self) -> BTreeMap<String, i64> {
        let stats = self.stats();
        let mut flat = Flat::default();
        flat.stats(&stats);
        let max_split_size = self.conf().max_split_size_bytes.map_or(-1, whole);
        flat.0.insert("max_split_size".into(), max_split_size);
        for pool in self.private_pools() {
            flat.stat(
                &format!("reserved_bytes_by_private_pools.0_{}", pool.id),
                &pool.reserved_bytes,
            );
        }
        flat.0
    }

    /// The figures a person looks at first, as a table.
    #[must_use]
    pub fn memory_summary(&self) -> String {
        let stats = self.stats();
        let mut text = format!(
            "{}\n{:<24}{:>12}{:>12}{:>12}{:>12}\n",
            self.device().info().name,
            "",
            "current",
            "peak",
            "allocated",
            "freed"
        );
        let mut row = |name: &str, stat: &Stat, show: fn(u64) -> String| {
            let Stat { current, peak, allocated, freed } = *stat;
            let [current, peak, allocated, freed] = [current, peak, allocated, freed].map(show);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<24}{current:>12}{peak:>12}{allocated:>12}{freed:>12}");
        };
        let bytes = format_bytes as fn(u64) -> String;
        row("allocated", &stats.allocated_bytes.all, bytes);
        row("requested", &stats.requested_bytes.all, bytes);
        row("active", &stats.active_bytes.all, bytes);
        row("reserved", &stats.reserved_bytes.all, bytes);
        row("inactive split", &stats.inactive_split_bytes.all, bytes);
        for one in self.lifetimes().iter().filter(|one| one.allocated_bytes.allocated > 0) {
            row(&format!("  {}", one.lifetime), &one.allocated_bytes, bytes);
        }
        for pool in self.private_pools() {
            row(&format!("  private pool {}", pool.id), &pool.reserved_bytes, bytes);
        }
        let number = |number: u64| number.to_string();
        row("blocks", &stats.allocation.all, number);
        row("segments", &stats.segment.all, number);
        let Stats { num_device_alloc, num_device_free, num_alloc_retries, num_ooms, .. } = stats;
        let _ = writeln!(
            text,
            "driver calls {num_device_alloc} + {num_device_free}, retries {num_alloc_retries}, \
             out of memory {num_ooms}"
        );
        text
    }
}

/// Figures by their dotted names.
#[derive(Default)]
struct Flat(BTreeMap<String, i64>);

impl Flat {
    fn stats(&mut self, stats: &Stats) {
        for (name, stat) in [
            ("allocation", &stats.allocation),
            ("segment", &stats.segment),
            ("active", &stats.active),
            ("inactive_split", &stats.inactive_split),
            ("allocated_bytes", &stats.allocated_bytes),
            ("reserved_bytes", &stats.reserved_bytes),
            ("active_bytes", &stats.active_bytes),
            ("inactive_split_bytes", &stats.inactive_split_bytes),
            ("requested_bytes", &stats.requested_bytes),
        ] {
            let PoolStat { all, small_pool, large_pool } = stat;
            for (pool, stat) in
                [("all", all), ("small_pool", small_pool), ("large_pool", large_pool)]
            {
                self.stat(&format!("{name}.{pool}"), stat);
            }
        }
        self.stat("oversize_allocations", &stats.oversize_allocations);
        self.stat("oversize_segments", &stats.oversize_segments);
        for (name, number) in [
            ("num_alloc_retries", stats.num_alloc_retries),
            ("num_ooms", stats.num_ooms),
            ("num_oom_rejections", stats.num_oom_rejections),
            ("num_sync_all_streams", stats.num_sync_all_streams),
            ("num_device_alloc", stats.num_device_alloc),
            ("num_device_free", stats.num_device_free),
        ] {
            self.0.insert(name.into(), whole(number));
        }
    }

    fn stat(&mut self, name: &str, stat: &Stat) {
        let Stat { current, peak, allocated, freed } = *stat;
        for (part, number) in
            [("current", current), ("peak", peak), ("allocated", allocated), ("freed", freed)]
        {
            self.0.insert(format!("{name}.{part}"), whole(number));
        }
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
