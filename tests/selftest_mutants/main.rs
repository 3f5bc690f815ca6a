//! That the selftest can fail: devices that lie in one way each, and the check that must notice.

mod liar;

use std::time::Duration;

use liar::{Liar, Lie};
use riverbed::device::Device;
use riverbed::selftest::{Check, Outcome, checks};

/// How long a check may stand still, where standing still is what is found.
const PATIENCE: Duration = Duration::from_secs(1);

/// Every lie, and the check that is meant to find it.
const CAUGHT_BY: &[(Lie, &str)] = &[
    (Lie::H2dLosesAByte, "bytes_arrive_as_they_left_at_every_size"),
    (Lie::D2hLosesAByte, "pinned_memory_carries_copies"),
    (Lie::D2dWritesTooMuch, "bytes_arrive_as_they_left_at_every_size"),
    (Lie::D2dOfNothingIsAByte, "a_copy_of_nothing_does_nothing"),
    (Lie::BatchesLoseTheLast, "every_piece_of_a_batch_arrives"),
    (Lie::RowsIgnoreTheirPitch, "rows_arrive_where_they_belong"),
    (Lie::PeersGiveNothing, "a_device_is_its_own_peer"),
    (Lie::EventsAreReachedAtOnce, "an_event_is_reached_when_its_stream_gets_there"),
    (Lie::MarksStayWhereTheyWere, "recording_again_moves_the_mark"),
    (Lie::StreamsDoNotWaitForEvents, "a_wait_orders_two_streams"),
    (Lie::StreamsDoNotWaitAtGates, "a_gate_lets_through_at_its_value_and_above"),
    (Lie::GatesOpenEarly, "a_gate_lets_through_at_its_value_and_above"),
    (Lie::GatesFall, "a_gate_never_falls"),
    (Lie::GatesNeverOpen, "a_gate_lets_through_at_its_value_and_above"),
    (Lie::GatesBeginOpen, "a_gate_begins_at_zero"),
    (Lie::SynchronizeReturnsAtOnce, "synchronize_blocks_until_the_mark"),
    (Lie::AllStreamsAreOne, "a_blocked_stream_holds_up_no_other"),
    (Lie::HostFunctionsRunAtOnce, "a_blocked_stream_holds_up_no_other"),
    (Lie::HostFunctionsAreForgotten, "a_stream_takes_work_from_many_threads"),
    (Lie::TimeRunsAtHalf, "elapsed_time_covers_the_work_between"),
    (Lie::UnreachedEventsHaveATime, "elapsed_time_needs_two_reached_marks_with_timing"),
    (Lie::MemoryOverlaps, "allocations_are_aligned_and_apart"),
    (Lie::MemoryIsMisaligned, "allocations_are_aligned_and_apart"),
    (Lie::FreeMemoryIsMadeUp, "what_is_taken_and_freed_shows_in_the_figures"),
    (Lie::FreeLeaks, "what_is_taken_and_freed_shows_in_the_figures"),
    (Lie::NothingIsSomething, "nothing_and_too_much_are_refused"),
    (Lie::OutOfMemoryIsCalledInvalid, "a_full_device_says_so_and_serves_again"),
    (Lie::PinnedMemoryIsDirty, "pinned_memory_is_zeroed_and_aligned"),
    (Lie::PagesAreMappedBackwards, "pages_in_a_row_keep_their_order"),
    (Lie::DestroyedPagesStay, "capacity_counts_a_page_once"),
    (Lie::ChecksumsLeaveTheEndOut, "checksums_are_those_of_the_reference"),
    (Lie::FillsWriteTooMuch, "fill_writes_its_range_and_no_more"),
    (Lie::FillsEndEarly, "a_kernel_reaches_the_end_of_a_large_range"),
    (Lie::PoolsForgetWhatIsFreed, "memory_freed_on_a_stream_is_taken_again_there_at_once"),
    (Lie::PoolsFreeAtOnce, "freed_memory_is_not_written_before_its_stream_is_done"),
    (Lie::PoolCapsAreIgnored, "a_pool_never_reserves_more_than_its_cap"),
    (Lie::PoolSettingsAreIgnored, "flags_are_on_at_first_and_stay_as_set"),
    (Lie::TheDefaultPoolStaysCurrent, "the_pool_that_is_set_is_current_until_it_is_given_up"),
    (Lie::H2dLosesAByte, "a_model_streams_through_a_limit_whole"),
    (Lie::ChecksumsLeaveTheEndOut, "caching_keeps_its_books_and_every_byte"),
    (Lie::CallsAreCountedTwice, "every_call_counts_once"),
];

fn check(name: &str) -> Check {
    checks().find(|check| check.name() == name).unwrap_or_else(|| panic!("no check '{name}'"))
}

#[test]
fn every_lie_is_found_out() {
    let mut missed = Vec::new();
    for &(lie, name) in CAUGHT_BY {
        let device = Device::from_driver(Liar::new(lie));
        let outcome = check(name).run_with(&device, PATIENCE);
        let panicked =
            matches!(&outcome, Outcome::Failed(finding) if finding.text.contains("panicked"));
        if panicked || !matches!(outcome, Outcome::Failed(_)) {
            missed.push(format!("{lie:?} by {name}: {outcome:?}"));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn a_device_that_tells_the_truth_passes() {
    let device = Device::from_driver(Liar::new(Lie::None));
    for check in checks() {
        assert_eq!(check.run(&device), Outcome::Passed, "{check}");
    }
}
