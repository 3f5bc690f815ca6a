//! The device contract, as one suite that every backend runs unchanged.

#[path = "../support/mod.rs"]
mod support;

mod casts;
mod copies;
mod counts;
mod events;
mod gates;
mod kernels;
mod memory;
mod misuse;
mod pinned;
mod pools;
mod streams;
mod virtual_memory;

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

/// The suite on the devices that `$open` opens: order, books, refusals.
macro_rules! contract_suite {
    ($backend:ident, $open:expr) => {
        mod $backend {
            cases! { $open;
                streams:
                    a_blocked_stream_holds_up_no_other,
                    enqueueing_never_waits,
                    a_panic_in_a_host_function_does_not_end_the_stream,
                    a_stream_given_up_still_runs_what_it_was_given,
                    a_stream_takes_work_from_many_threads,
                    clones_name_the_same_stream;
                events:
                    an_event_never_recorded_holds_nobody_up,
                    an_event_is_reached_when_its_stream_gets_there,
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
                    streams_wait_at_values_of_their_own;
                memory:
                    allocations_are_aligned_and_apart,
                    nothing_and_too_much_are_refused,
                    a_full_device_says_so_and_serves_again,
                    threads_take_and_free_side_by_side;
                virtual_memory:
                    pages_are_mapped_in_a_row_or_not_at_all,
                    capacity_counts_a_page_once,
                    a_destroyed_page_lives_until_its_last_mapping_is_gone,
                    mapping_needs_reserved_and_empty_space,
                    mappings_go_whole_or_not_at_all,
                    address_space_in_use_is_not_released,
                    sizes_off_the_granularity_are_refused,
                    unmapped_space_is_refused_to_work,
                    pages_run_out_like_memory;
                pinned:
                    pinned_memory_is_zeroed_aligned_and_carries_copies,
                    memory_of_ones_own_can_be_pinned,
                    memory_is_not_pinned_twice,
                    copies_from_unpinned_memory_are_refused,
                    pinning_nothing_is_refused;
                copies:
                    a_copy_of_nothing_does_nothing,
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
                    a_stream_given_up_still_frees;
                counts:
                    every_call_counts_once,
                    calls_that_fail_count_too;
            }
        }
    };
}

/// What a device does with bytes, for those that hold any.
macro_rules! bytes_suite {
    ($backend:ident, $open:expr) => {
        mod $backend {
            cases! { $open;
                streams:
                    work_on_one_stream_runs_in_order,
                    host_functions_see_what_came_before_them;
                events:
                    a_wait_orders_two_streams;
                gates:
                    writes_before_opening_are_seen_behind_the_gate;
                virtual_memory:
                    a_mapped_page_holds_bytes,
                    one_page_at_two_addresses_shows_the_same_bytes,
                    neighbouring_pages_are_one_range,
                    a_page_keeps_its_bytes_when_it_moves;
                copies:
                    bytes_arrive_as_they_left_at_every_size,
                    copies_cross_pages;
                kernels:
                    checksums_are_those_of_the_reference,
                    fill_writes_its_range_and_no_more,
                    kernels_over_nothing_touch_nothing;
                casts:
                    casts_are_those_of_the_reference,
                    a_cast_writes_its_range_and_no_more,
                    gathered_pieces_arrive_whole;
            }
        }
    };
}

/// What a device reports that others may crash on.
macro_rules! misuse_suite {
    ($backend:ident, $open:expr) => {
        mod $backend {
            cases! { $open;
                pools:
                    uses_out_of_order_are_refused;
                misuse:
                    streams_that_are_none_are_refused,
                    events_and_gates_that_are_none_are_refused,
                    addresses_that_are_none_are_refused,
                    pages_that_are_none_are_refused,
                    pinned_ranges_that_are_none_are_refused,
                    a_page_of_an_allocation_cannot_be_taken_from_it;
            }
        }
    };
}

fn host() -> riverbed::Result<riverbed::device::Device> {
    riverbed::device::Device::open("host:vram=64MiB")
}

fn sim() -> riverbed::Result<riverbed::device::Device> {
    riverbed::device::Device::open("sim:64MiB")
}

contract_suite!(host_contract, crate::host);
bytes_suite!(host_bytes, crate::host);
misuse_suite!(host_misuse, crate::host);
contract_suite!(sim_contract, crate::sim);
misuse_suite!(sim_misuse, crate::sim);
