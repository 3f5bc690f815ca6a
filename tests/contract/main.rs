//! The device contract on every device there is without a GPU: the selftest's checks, each a
//! test of its own, on devices without a driver and on fake drivers, and what only the former
//! promise. A real driver may crash on misuse, and places pool memory as it likes.

#[path = "../support/mod.rs"]
mod support;

mod casts;
mod copies;
#[path = "../support/fake.rs"]
mod fake;
mod kernels;
mod misuse;
mod pinned;
mod pools;
mod virtual_memory;

use std::time::{Duration, Instant};

use riverbed::device::Device;
use riverbed::selftest::{Outcome, checks};

use fake::FakeDriver;

/// A HIP whose virtual memory is tried without being asked for.
const NEW_HIP: &str = "version=71460850";

fn host() -> riverbed::Result<Device> {
    Device::open("host:vram=64MiB")
}

fn sim() -> riverbed::Result<Device> {
    Device::open("sim:64MiB")
}

/// Runs a check of the selftest on a device without a driver. A check that needs bytes is skipped on a device without any,
/// and no other is skipped.
fn passes(open: fn() -> riverbed::Result<Device>, group: &str, name: &str) {
    passes_on(&open().unwrap(), group, name, |device, why| {
        device.info().simulated && why.contains("no bytes")
    });
}

/// Runs a check of the selftest on a fake driver, which sees nothing done wrong and gets
/// everything back.
fn passes_on_fake(fake: &FakeDriver, settings: &str, group: &str, name: &str) {
    let device = Device::open(&format!("{}{settings}", fake.device_text())).unwrap();
    // On old HIP, which has neither by default, and nowhere else.
    let bare = fake.path().ends_with("libamdhip64.so.6") && settings.is_empty();
    let lacks = ["no virtual memory", "no stream-ordered pools", "cannot be capped"];
    passes_on(&device, group, name, |_, why| {
        why.contains("others may use the device")
            || bare && lacks.iter().any(|lack| why.contains(lack))
    });
    drop(device);
    settles(|| fake.report().leaks.is_empty());
    // What this check is about: real drivers answer with an error.
    let expected = match name {
        "elapsed_time_needs_two_reached_marks_with_timing" => "ElapsedTime",
        _ => "no such call",
    };
    let report = fake.report();
    let misuses: Vec<_> =
        report.misuses.iter().filter(|misuse| !misuse.call.ends_with(expected)).collect();
    assert!(misuses.is_empty(), "{misuses:#?}");
    assert!(report.leaks.is_empty(), "never given back: {:?}", report.leaks);
}

fn passes_on(
    device: &Device,
    group: &str,
    name: &str,
    may_skip: impl FnOnce(&Device, &str) -> bool,
) {
    let before = device.memory().unwrap();
    let check = checks().find(|check| check.group() == group && check.name() == name).unwrap();
    match check.run(device) {
        Outcome::Passed => {}
        Outcome::Skipped(why) => assert!(may_skip(device, &why), "skipped: {why}"),
        Outcome::Failed(finding) => panic!("{finding}"),
    }
    // What a stream still used when it was dropped goes a little later.
    settles(|| device.memory().unwrap() == before);
    assert_eq!(device.memory().unwrap(), before, "all is given back");
}

/// Waits until `done`, as long as that may take at all.
fn settles(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Makes a test of every check on every device, and a list of them.
macro_rules! selftest {
    ($($group:ident: $($name:ident),+ $(,)?;)+) => {
        const TESTED: &[(&str, &str)] = &[$($((stringify!($group), stringify!($name)),)+)+];

        mod on_host {$(
            mod $group {$(
                #[test]
                fn $name() {
                    crate::passes(crate::host, stringify!($group), stringify!($name));
                }
            )+}
        )+}

        mod on_fake_cuda {$(
            mod $group {$(
                #[test]
                fn $name() {
                    let fake = crate::fake::fake_cuda("");
                    crate::passes_on_fake(&fake, "", stringify!($group), stringify!($name));
                }
            )+}
        )+}

        mod on_fake_hip {$(
            mod $group {$(
                #[test]
                fn $name() {
                    let fake = crate::fake::fake_hip("");
                    crate::passes_on_fake(&fake, "", stringify!($group), stringify!($name));
                }
            )+}
        )+}

        mod on_fake_hip_with_all_it_has {$(
            mod $group {$(
                #[test]
                fn $name() {
                    let fake = crate::fake::fake_hip(crate::NEW_HIP);
                    crate::passes_on_fake(&fake, ",pools=on", stringify!($group), stringify!($name));
                }
            )+}
        )+}

        mod on_sim {$(
            mod $group {$(
                #[test]
                fn $name() {
                    crate::passes(crate::sim, stringify!($group), stringify!($name));
                }
            )+}
        )+}
    };
}

selftest! {
    streams:
        work_on_one_stream_runs_in_order,
        a_blocked_stream_holds_up_no_other,
        enqueueing_never_waits,
        host_functions_see_what_came_before_them,
        a_panic_in_a_host_function_does_not_end_the_stream,
        a_stream_given_up_still_runs_what_it_was_given,
        a_stream_takes_work_from_many_threads,
        clones_name_the_same_stream;
    events:
        an_event_never_recorded_holds_nobody_up,
        an_event_is_reached_when_its_stream_gets_there,
        a_wait_orders_two_streams,
        one_event_orders_many_streams,
        recording_again_moves_the_mark,
        an_earlier_wait_keeps_its_own_mark,
        a_wait_stays_good_when_its_event_is_given_up,
        synchronize_blocks_until_the_mark,
        elapsed_time_covers_the_work_between,
        elapsed_time_needs_two_reached_marks_with_timing;
    gates:
        a_gate_lets_through_at_its_value_and_above,
        a_gate_never_falls,
        a_gate_begins_at_zero,
        a_gate_given_up_lets_everybody_through,
        writes_before_opening_are_seen_behind_the_gate,
        streams_wait_at_values_of_their_own;
    memory:
        allocations_are_aligned_and_apart,
        what_is_taken_and_freed_shows_in_the_figures,
        every_byte_belongs_to_one_allocation,
        nothing_and_too_much_are_refused,
        a_full_device_says_so_and_serves_again,
        threads_take_and_free_side_by_side;
    pinned:
        pinned_memory_is_zeroed_and_aligned,
        pinned_memory_carries_copies,
        memory_of_ones_own_can_be_pinned,
        pinned_memory_is_not_device_memory;
    copies:
        bytes_arrive_as_they_left_at_every_size,
        copies_cross_pages,
        a_copy_of_nothing_does_nothing;
    wide_copies:
        rows_arrive_where_they_belong,
        rows_of_nothing_are_no_copy,
        every_piece_of_a_batch_arrives,
        a_batch_of_nothing_does_nothing,
        a_device_is_its_own_peer;
    virtual_memory:
        a_mapped_page_holds_bytes,
        one_page_at_two_addresses_shows_the_same_bytes,
        neighbouring_pages_are_one_range,
        pages_are_mapped_in_a_row,
        pages_in_a_row_keep_their_order,
        a_page_keeps_its_bytes_when_it_moves,
        address_space_is_used_again,
        capacity_counts_a_page_once,
        a_destroyed_page_lives_until_its_last_mapping_is_gone,
        pages_run_out_like_memory;
    pools:
        memory_freed_on_a_stream_is_taken_again_there_at_once,
        blocks_in_use_keep_their_bytes,
        freed_memory_is_not_written_before_its_stream_is_done,
        a_pool_never_reserves_more_than_its_cap,
        what_is_kept_and_what_is_trimmed,
        trimming_leaves_what_is_used,
        a_pool_given_up_lives_until_its_last_block_is_freed,
        marks_begin_anew_when_set_to_nothing,
        memory_of_a_pool_can_be_freed_the_plain_way,
        a_stream_given_up_still_frees,
        flags_are_on_at_first_and_stay_as_set;
    process_pool:
        the_pool_that_is_set_is_current_until_it_is_given_up,
        a_current_pool_keeps_to_its_cap;
    counts:
        every_call_counts_once,
        calls_that_fail_count_too;
    kernels:
        checksums_are_those_of_the_reference,
        fill_writes_its_range_and_no_more,
        kernels_over_nothing_touch_nothing,
        a_kernel_reaches_the_end_of_a_large_range;
    casts:
        casts_are_those_of_the_reference,
        a_cast_writes_its_range_and_no_more,
        gathered_pieces_arrive_whole;
    arrivals:
        dequantised_blocks_are_those_of_the_reference,
        patched_weights_are_those_of_the_reference;
    allocator:
        caching_keeps_its_books_and_every_byte,
        expandable_keeps_its_books_and_every_byte,
        planned_keeps_its_books_and_every_byte,
        mempool_keeps_its_books_and_every_byte;
    streaming:
        a_model_streams_through_a_limit_whole,
        a_model_streams_without_prefetch_whole,
        a_model_that_does_not_stay_in_ram_streams_whole;
}

#[test]
fn every_check_of_the_selftest_is_a_test() {
    let checks: Vec<(&str, &str)> = checks().map(|check| (check.group(), check.name())).collect();
    assert_eq!(TESTED, checks);
}

/// Makes a test of every function, each on a device of its own.
macro_rules! cases {
    ($open:expr; $($file:ident: $($case:ident),+ $(,)?;)+) => {$(
        mod $file {
            $(
                #[test]
                fn $case() {
                    let device: riverbed::Result<riverbed::device::Device> = ($open)();
                    crate::$file::$case(&device.unwrap());
                }
            )+
        }
    )+};
}

/// What a device reports that others may crash on, and what it does to the byte.
macro_rules! without_a_driver {
    ($backend:ident, $open:expr) => {
        mod $backend {
            cases! { $open;
                misuse:
                    streams_that_are_none_are_refused,
                    events_and_gates_that_are_none_are_refused,
                    addresses_that_are_none_are_refused,
                    pages_that_are_none_are_refused,
                    pinned_ranges_that_are_none_are_refused,
                    a_page_of_an_allocation_cannot_be_taken_from_it;
                virtual_memory:
                    pages_are_mapped_in_a_row_or_not_at_all,
                    mapping_needs_reserved_and_empty_space,
                    mappings_go_whole_or_not_at_all,
                    address_space_in_use_is_not_released,
                    sizes_off_the_granularity_are_refused,
                    unmapped_space_is_refused_to_work;
                pinned:
                    copies_need_memory_that_is_still_pinned,
                    memory_is_not_pinned_twice,
                    copies_from_unpinned_memory_are_refused,
                    pinning_nothing_is_refused;
                copies:
                    copies_beyond_the_memory_are_refused;
                kernels:
                    kernels_beyond_the_memory_are_refused,
                    a_checksum_needs_an_aligned_place;
                casts:
                    casts_and_gathers_of_nothing_touch_nothing,
                    casts_and_gathers_beyond_the_memory_are_refused,
                    casts_and_gathers_that_make_no_sense_are_refused;
                pools:
                    memory_freed_on_a_stream_is_taken_again_there_at_once,
                    an_event_hands_memory_to_another_stream,
                    an_event_hands_memory_on_through_a_third_stream,
                    memory_whose_free_has_run_is_for_everybody,
                    a_stream_may_be_made_to_wait_for_another_ones_free,
                    a_pool_never_reserves_more_than_its_cap,
                    unused_memory_above_the_threshold_goes_back_at_a_synchronize,
                    trimming_leaves_what_is_used_or_not_seen_freed,
                    a_pool_given_up_lives_until_its_last_block_is_freed,
                    marks_begin_anew_when_set_to_nothing,
                    memory_is_freed_once_and_by_its_address,
                    uses_out_of_order_are_refused,
                    a_pool_that_is_given_up_returns_its_memory_though_nobody_waits,
                    the_default_pool_stays_and_only_pools_become_current;
            }
        }
    };
}

without_a_driver!(host_without_a_driver, crate::host);
without_a_driver!(sim_without_a_driver, crate::sim);
