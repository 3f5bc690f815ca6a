//! PyTorch's snapshots, in both forms.

use riverbed::replay::read;

use crate::builder::{Event, Pickle};
use crate::{Scratch, assert_says, only, short};

const BASE: u64 = 0x7f12_3400_0000;

#[test]
fn blocks_from_before_the_window_are_allocated_first_by_address() {
    // Freed without an allocation; listed in a segment; seen in the trace.
    let events: &[Event] = &[
        ("segment_alloc", BASE, 2 << 20, 0),
        ("alloc", BASE, 100, 0),
        ("free_requested", BASE + 1024, 300, 0),
        ("free_completed", BASE + 1024, 300, 0),
        ("free_requested", BASE, 100, 0),
        ("free_completed", BASE, 100, 0),
        ("alloc", BASE + 1024, 200, 0),
        ("snapshot", 0, 5, 0),
    ];
    let blocks = [
        (512, 90, "inactive"),
        (512, 400, "active_allocated"),
        (512, 200, "active_allocated"),
        (512, 0, "active_pending_free"),
    ];
    for protocol in 2..=5 {
        let bytes = Pickle::snapshot(protocol, &[events], &[(0, BASE, &blocks)]);
        let trace = only(Scratch::new().read("s.pickle", bytes));
        let ops = ["+400@0", "+300@0", "+512@0", "+100@0", "-300@0", "-100@0", "+200@0"];
        assert_eq!(short(&trace), ops);
        assert_eq!((trace.name(), trace.live_at_end()), ("s", 3));
        assert_says(
            &trace.notes().join("; "),
            &["3 block(s) from before", "3 block(s) still live"],
        );
    }
}

#[test]
fn a_block_other_streams_still_use_lives_until_its_free_is_completed() {
    let events: &[Event] = &[
        ("alloc", BASE, 100, 0),
        ("alloc", BASE + 512, 50, 17),
        ("free_requested", BASE, 100, 0),
        ("alloc", BASE + 1024, 70, 0),
        ("free_completed", BASE, 100, 0),
        ("oom", 0, 1 << 30, 0),
    ];
    let trace = only(Scratch::new().read("s.pickle", Pickle::snapshot(4, &[events], &[])));
    assert_eq!(short(&trace), ["+100@0", "+50@1", "+70@0", "-100@0"]);
    assert_says(&trace.notes().join("; "), &["1 block(s) in use by other", "1 out-of-memory"]);
}

#[test]
fn where_completions_were_not_recorded_blocks_end_when_given_up() {
    let events: &[Event] = &[
        ("alloc", BASE, 100, 0),
        ("free_requested", BASE, 100, 0),
        ("alloc", BASE, 100, 0),
        ("free_requested", BASE + 512, 7, 0),
    ];
    let trace = only(Scratch::new().read("s.pickle", Pickle::snapshot(4, &[events], &[])));
    assert_eq!(short(&trace), ["+7@0", "+100@0", "-100@0", "+100@0", "-7@0"]);
}

#[test]
fn every_device_with_events_is_a_trace_of_its_own() {
    let scratch = Scratch::new();
    let (one, two): (&[Event], &[Event]) = (&[("alloc", BASE, 1, 0)], &[("alloc", BASE, 2, 0)]);
    let segment = (2, BASE + 4096, &[(512, 9, "active_allocated")][..]);
    let path = scratch.write("s.pkl", Pickle::snapshot(4, &[&[], one, two], &[segment]));
    let traces = read(&path, None).unwrap();
    let names: Vec<&str> = traces.iter().map(|trace| trace.name()).collect();
    assert_eq!(names, ["s:1", "s:2"]);
    assert_eq!(short(&traces[1]), ["+9@0", "+2@0"]);
    assert_eq!(only(read(&path, Some(2))), traces[1]);
    let error = read(&path, Some(0)).unwrap_err().to_string();
    assert_says(&error, &["device 0 has no events", "[1, 2]"]);
}

#[test]
fn the_json_form_says_the_same() {
    let json = r#"{"segments": [{"address": 1000, "blocks": [
            {"size": 24, "state": "inactive"},
            {"size": 512, "requested_size": 400, "state": "active_allocated", "frames": []}]}],
        "device_traces": [[
            {"action": "alloc", "addr": 5000, "size": 100, "stream": 0, "frames": [{"line": 1}]},
            {"action": "annotate"},
            {"action": "free_requested", "addr": 5000, "size": 100, "stream": -1},
            {"action": "free_completed", "addr": 5000, "size": 100}]],
        "host_traces": [[{"action": "alloc"}]], "later": {"keys": null}}"#;
    let scratch = Scratch::new();
    let trace = only(scratch.read("s.json", json));
    assert_eq!(short(&trace), ["+400@0", "+100@0", "-100@0"]);
    assert_says(&trace.notes().join("; "), &["1 event(s) of pinned host memory"]);
    assert_says(&scratch.refusal("cut.json", &json[..200]), &["line"]);
    assert_says(&scratch.refusal("other.json", "{}"), &["device_traces"]);
    let nameless = r#"{"device_traces": [[{"action": "alloc", "size": 3}]]}"#;
    assert_says(&scratch.refusal("nameless.json", nameless), &["[0][0]", "no 'addr'"]);
}

#[test]
fn snapshots_without_what_a_replay_needs_say_what_to_do() {
    let scratch = Scratch::new();
    let none = Pickle::snapshot(4, &[&[], &[]], &[]);
    assert_says(&scratch.refusal("none.pickle", none), &["_record_memory_history"]);
    let list = Pickle::new(2).raw(b"]").end();
    assert_says(&scratch.refusal("list.pickle", list), &["device_traces", "_dump_snapshot"]);
    let marks: &[Event] = &[("snapshot", 0, 0, 0)];
    let marks = Pickle::snapshot(4, &[marks], &[]);
    assert_says(&scratch.refusal("marks.pickle", marks), &["allocates or frees"]);
    let number =
        Pickle::new(2).raw(b"}(").text("device_traces").raw(b"](](K\x05ee").raw(b"u").end();
    assert_says(&scratch.refusal("number.pickle", number), &["[0][0]", "no dictionary"]);
}
