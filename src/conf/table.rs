//! The table of options: the only place that knows a key. Parsing, printing, merging, the
//! reference page and the fields of [`Settings`] follow from it. Rows are in the order in
//! which a conf prints.

use crate::base::MIB;

use super::form::{Flag, Form, Fraction, Optional, Threads};
use super::mib::{Least, Mib, MibToTheByte};
use super::policy::{Backend, BackendWord, CACHING, PolicyName};
use super::reserve::{Reserve, ReserveByClassForm, ReserveForm};
use super::roundup::{Divisions, RoundupDivisions};
use super::spec::Status::{ByDesign, Effective, NotYet};
use super::spec::{Access, HonouredBy, OptionSpec, options};

/// Every option, in printing order.
#[must_use]
pub fn options() -> &'static [OptionSpec] {
    &OPTIONS
}

/// How many options there are.
pub(super) const OPTION_COUNT: usize = OPTIONS.len();

/// Where a key or alias stands in the table.
pub(super) fn find(key: &str) -> Option<usize> {
    OPTIONS.iter().position(|spec| spec.key == key || spec.aliases.contains(&key))
}

/// Words that look like keys, in advice, old code or error messages, and are none; with what
/// to do instead.
pub(super) const NOT_KEYS: [(&str, &str); 3] = [
    (
        "expandable_segments_handle_type",
        "not a key: only PyTorch's C++ interface can set the handle type, whatever its error \
         messages say; remove it",
    ),
    (
        "trace_alloc_max_entries",
        "not a key: the length of a recording is given where the recording is started; remove it",
    ),
    (
        "roundup_bypass_threshold_mb",
        "not a key any more: use a list in roundup_power2_divisions, whose last entry >:0 turns \
         rounding off above a size",
    ),
];

options! {
    /// The policy that places blocks, by name.
    "policy" [] policy: String = CACHING.to_owned();
    form: PolicyName; by: [Riverbed]; status: Effective;

    /// PyTorch's spelling of two policies: `cudaMallocAsync` is `policy:mempool`, `native` is
    /// any other policy.
    "backend" [] backend: Backend = Backend::Native;
    form: BackendWord; by: [Native, Mempool]; status: Effective;

    /// PyTorch's spelling of `policy:expandable`: segments that grow in place in reserved
    /// address space.
    "expandable_segments" [] expandable_segments: bool = false;
    form: Flag; by: [Native]; status: Effective;

    /// Hard limit on what one allocator, or the process pool, holds from its device.
    "limit_mb" [] limit_bytes: Option<u64> = None;
    form: Optional(MibToTheByte, "unlimited"); by: [Riverbed, ProcessPool]; status: Effective;

    /// Hard limit on the page-locked host memory of one pinned pool.
    "pinned_limit_mb" [] pinned_limit_bytes: Option<u64> = None;
    form: Optional(MibToTheByte, "derived from the machine"); by: [Riverbed]; status: Effective;

    /// Limit as a fraction of the device's total memory; 1 is no limit, 0 refuses every
    /// request that needs new memory.
    "per_process_memory_fraction" [] per_process_memory_fraction: f64 = 1.0;
    form: Fraction { ends: true }; by: [Native, Mempool, ProcessPool]; status: Effective;

    /// What a pool of the driver keeps of its unused memory when the host synchronizes; 0 gives
    /// all of it back each time. ROCm is known to keep to none.
    "mempool_release_threshold_mb" [] mempool_release_threshold_bytes: Option<u64> = None;
    form: Optional(Mib(Least::Zero), "unlimited"); by: [Riverbed, Mempool, ProcessPool];
    status: Effective;

    /// A stream that already waits for a free may take the memory from a pool of the driver.
    "mempool_follow_event_dependencies" [] mempool_follow_event_dependencies: bool = true;
    form: Flag; by: [Riverbed, Mempool, ProcessPool]; status: Effective;

    /// Any stream may take memory whose free has run from a pool of the driver. Placement then
    /// depends on timing.
    "mempool_allow_opportunistic" [] mempool_allow_opportunistic: bool = true;
    form: Flag; by: [Riverbed, Mempool, ProcessPool]; status: Effective;

    /// A pool of the driver that has no more may make a stream wait for another one's free.
    "mempool_allow_internal_dependencies" [] mempool_allow_internal_dependencies: bool = true;
    form: Flag; by: [Riverbed, Mempool, ProcessPool]; status: Effective;

    /// Blocks of this size and larger are never split and serve only requests of this size and
    /// larger; when memory runs out, such blocks are released first.
    "max_split_size_mb" [] max_split_size_bytes: Option<u64> = None;
    form: Optional(Mib(Least::LargeSegment), "unlimited"); by: [Native]; status: Effective;

    /// A request served by an unsplittable block may waste less than this much of it. Follows
    /// `large_segment_size_mb` unless set.
    "max_non_split_rounding_mb" [] max_non_split_rounding_bytes: u64 = LARGE_SEGMENT_BYTES;
    form: Mib(Least::LargeSegment); by: [Native]; status: Effective;

    /// Segment taken from the device for requests above 1 and below 10 MiB, and the step in
    /// which expandable segments of the large pool grow.
    "large_segment_size_mb" [] large_segment_size_bytes: u64 = LARGE_SEGMENT_BYTES;
    form: Mib(Least::Above(10)); by: [Native]; status: Effective;

    /// Cached segments are released by age once more than this fraction of the limit is
    /// reserved. Needs a limit to have an effect.
    "garbage_collection_threshold" [] garbage_collection_threshold: Option<f64> = None;
    form: Optional(Fraction { ends: false }, "off"); by: [Native]; status: Effective;

    /// Rounds sizes up to this many steps between powers of two, so that similar sizes share
    /// blocks. 1 has no effect.
    "roundup_power2_divisions" [] roundup_power2_divisions: RoundupDivisions =
        RoundupDivisions::default();
    form: Divisions; by: [Native]; status: Effective;

    /// A request that would pass the limit fails at once, with no attempt to release memory
    /// for it.
    "throw_on_cudamalloc_oom" [] throw_on_cudamalloc_oom: bool = false;
    form: Flag; by: [Native]; status: Effective;

    /// Address space reserved for each expandable segment, at most 9/8 of device memory.
    "expandable_segments_reserve" [] expandable_segments_reserve: Reserve = Reserve::DEFAULT;
    form: ReserveForm; by: [Native]; status: Effective;

    /// Address space reserved for each expandable segment, by class of stream.
    "expandable_segments_reserve_by_class" [] expandable_segments_reserve_by_class:
        Vec<(String, Reserve)> = Vec::new();
    form: ReserveByClassForm; by: [Native];
    status: NotYet("streams have no classes");

    /// Lets other threads allocate while one waits for the driver to give a segment.
    "release_lock_on_cudamalloc" ["release_lock_on_hipmalloc"]
    release_lock_on_cudamalloc: bool = false;
    form: Flag; by: [Native];
    status: ByDesign("no lock is held while the driver is asked");

    /// Within a graph capture, lets a block freed on another stream be used again.
    "graph_capture_record_stream_reuse" [] graph_capture_record_stream_reuse: bool = false;
    form: Flag; by: [Native];
    status: NotYet("such blocks wait until the capture ends");

    /// Pins by locking ordinary pages, touched first, in place of the driver's own allocation.
    /// PyTorch's default is False; here it is what pins faster.
    "pinned_use_cuda_host_register" ["pinned_use_hip_host_register"]
    pinned_use_cuda_host_register: Option<bool> = None;
    form: Optional(Flag, "True but on sim"); by: [Pinned]; status: Effective;

    /// Threads that touch pages before they are locked. PyTorch's default is 1; here it is the
    /// processors, at most 4.
    "pinned_num_register_threads" [] pinned_num_register_threads: Option<u32> = None;
    form: Optional(Threads, "processors, at most 4"); by: [Pinned]; status: Effective;

    /// A background thread watches for the end of copies, so that allocating threads need not,
    /// and gives idle memory up.
    "pinned_use_background_threads" [] pinned_use_background_threads: bool = false;
    form: Flag; by: [Pinned]; status: Effective;

    /// One pinned region of this size is taken at first need and blocks come from it while it has
    /// room. Idle memory is given up, but not this.
    "pinned_reserve_segment_size_mb" [] pinned_reserve_segment_size_bytes: Option<u64> = None;
    form: Optional(Mib(Least::Above(0)), "off"); by: [Pinned]; status: Effective;

    /// Above this, pinned sizes are exact and not rounded to a power of two.
    "pinned_max_round_threshold_mb" [] pinned_max_round_threshold_bytes: Option<u64> = None;
    form: Optional(Mib(Least::Zero), "unlimited"); by: [Pinned];
    status: ByDesign("pinned sizes are never rounded to a power of two");

    /// Pinned blocks above this are given back to the system when copies are done with them, not
    /// cached.
    "pinned_max_cached_size_mb" [] pinned_max_cached_size_bytes: Option<u64> = None;
    form: Optional(Mib(Least::Zero), "unlimited"); by: [Pinned]; status: Effective;

    /// Errors while pinned memory is freed are swallowed.
    "pinned_free_catch_all" [] pinned_free_catch_all: bool = false;
    form: Flag; by: [Pinned];
    status: ByDesign("freeing never fails: errors are logged, and the memory is kept and offered \
        to the driver again");
}

/// PyTorch's large segment: 20 MiB.
const LARGE_SEGMENT_BYTES: u64 = 20 * MIB;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_unique() {
        let mut names: Vec<_> = OPTIONS
            .iter()
            .flat_map(|spec| std::iter::once(&spec.key).chain(spec.aliases))
            .chain(NOT_KEYS.iter().map(|(name, _)| name))
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(count, OPTION_COUNT + 2 + NOT_KEYS.len());
    }

    #[test]
    fn defaults_are_within_their_own_ranges() {
        let settings = Settings::default();
        for spec in options() {
            assert_eq!((spec.access.check)(&settings), Ok(()), "{}", spec.key);
        }
    }

    #[test]
    fn help_is_one_line_and_a_sentence() {
        for spec in options() {
            assert!(spec.help.ends_with('.') && !spec.help.contains('\n'), "{}", spec.help);
            assert!(!spec.help.contains("  ") && !spec.help.starts_with(' '), "{}", spec.help);
        }
    }
}
