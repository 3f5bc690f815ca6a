//! Pickles nobody honest writes: each is refused or read, without harm, in time and memory in
//! proportion to its length.

use crate::builder::{Event, Pickle};
use crate::support::Random;
use crate::{Scratch, assert_says};

fn small() -> Vec<u8> {
    let events: &[Event] = &[
        ("alloc", 0x7f00_0000_0000, 70_000, 0),
        ("free_requested", 0x7f00_0000_0000, 70_000, 3),
        ("free_completed", 0x7f00_0000_0000, 70_000, 3),
        ("alloc", u64::MAX - 511, 300, -1),
    ];
    let blocks: &[_] = &[(512, 300, "active_allocated")];
    Pickle::snapshot(4, &[events], &[(0, u64::MAX - 511, blocks)])
}

#[test]
fn classes_calls_and_persistent_ids_are_refused_by_name() {
    let scratch = Scratch::new();
    let refused = |program: &[u8], words: &[&str]| {
        let bytes = Pickle::new(4).raw(program).end();
        assert_says(&scratch.refusal("evil.pickle", bytes), words);
    };
    refused(b"cos\nsystem\n", &["GLOBAL", "os.system", "byte 2", "plain containers"]);
    refused(b"\x8c\x02os\x8c\x06system\x93", &["STACK_GLOBAL", "os.system"]);
    refused(b"(S'echo'\niposix\nsystem\n", &["protocols 0 and 1"]);
    refused(b"(iposix\nsystem\n", &["INST", "posix.system"]);
    refused(b"N)R", &["REDUCE"]);
    refused(b"N)\x81", &["NEWOBJ"]);
    refused(b"N)}\x92", &["NEWOBJ_EX"]);
    refused(b"(No", &["OBJ"]);
    refused(b"N}b", &["BUILD"]);
    refused(b"Pid\n", &["PERSID"]);
    refused(b"K\x01Q", &["BINPERSID"]);
    refused(b"\x82\x01", &["EXT1"]);
    refused(b"\x8f", &["EMPTY_SET"]);
    refused(b"\x97", &["NEXT_BUFFER"]);
    refused(b"\xff", &["0xff"]);
    let protocol = [&[0x80, 9][..], b"N."].concat();
    assert_says(&scratch.refusal("late.pickle", protocol), &["protocol 9", "2 to 5"]);
}

#[test]
fn every_truncation_is_refused_and_the_whole_is_read() {
    let scratch = Scratch::new();
    let whole = small();
    assert_eq!(scratch.read("whole.pickle", &whole).unwrap()[0].ops().len(), 3);
    for cut in 1..whole.len() {
        assert_says(&scratch.refusal("cut.pickle", &whole[..cut]), &["byte "]);
    }
}

#[test]
fn random_changes_are_read_or_refused_never_worse() {
    let scratch = Scratch::new();
    let whole = small();
    let mut random = Random::new(7);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..4000 {
        let mut bytes = whole.clone();
        for _ in 0..=random.below(3) {
            let at = 1 + random.below(bytes.len() as u64 - 1) as usize;
            match random.below(3) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                _ => drop(bytes.remove(at)),
            }
        }
        match scratch.read("changed.pickle", bytes) {
            Ok(traces) => read += usize::from(!traces.is_empty()),
            Err(_) => refused += 1,
        }
    }
    assert!(read > 50 && refused > 1000, "{read} read, {refused} refused");
}

#[test]
fn lengths_beyond_the_file_are_refused_before_anything_is_taken() {
    let scratch = Scratch::new();
    for program in [
        &b"X\xff\xff\xff\xff"[..],
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x96\x00\x00\x00\x00\x00\x00\x00\x40",
        b"\x8b\xff\xff\xff\x7f",
        b"\x8a\xff",
        b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    ] {
        let bytes = Pickle::new(4).raw(program).end();
        assert_says(&scratch.refusal("long.pickle", bytes), &["the file ends"]);
    }
}

#[test]
fn stacks_and_memos_that_are_not_there_are_refused() {
    let scratch = Scratch::new();
    for program in [
        &b"a"[..],
        b"s",
        b"u",
        b"e",
        b"t",
        b"l",
        b"d",
        b"1",
        b"0",
        b"2",
        b"\x86",
        b"\x94",
        b"h\x05",
        b"j\x00\x00\x00\x7f",
        b"](K\x01d",
        b"]K\x01s",
        b"}(K\x01u",
        b"K\x01K\x02a",
        b"}(s",
        b"](a",
        b"N(\x85",
    ] {
        scratch.refusal("short.pickle", Pickle::new(2).raw(program).end());
    }
}

#[test]
fn deep_nesting_neither_overflows_nor_grows() {
    let scratch = Scratch::new();
    let deep = 2_000_000;
    for nest in
        [b"]".repeat(deep), b"(".repeat(deep), [b"]".repeat(deep), b"a".repeat(deep - 1)].concat()]
    {
        scratch.refusal("deep.pickle", Pickle::new(2).raw(nest).end());
    }
    let tuples = [&b"N"[..], &b"\x85".repeat(deep)].concat();
    scratch.refusal("tuples.pickle", Pickle::new(2).raw(tuples).end());
}

#[test]
fn a_list_that_holds_itself_is_not_walked_for_ever() {
    let scratch = Scratch::new();
    // A list of itself, as traces and as segments.
    let traces = Pickle::new(4).raw(b"}(").text("device_traces").raw(b"]\x94h\x00a");
    let bytes = traces.text("segments").raw(b"h\x00u").end();
    assert_says(&scratch.refusal("self.pickle", bytes), &["no dictionary"]);
}

#[test]
fn doubling_through_the_memo_takes_no_memory() {
    let scratch = Scratch::new();
    // Forty lists, each holding the one before twice: 2^40 items if they were copied.
    let mut pickle = Pickle::new(4).raw(b"]\x94");
    for level in 0..40_u8 {
        pickle = pickle.raw(b"](").raw([b'h', level, b'h', level]).raw(b"e\x94");
    }
    assert_says(&scratch.refusal("bomb.pickle", pickle.end()), &["device_traces"]);
}

#[test]
fn the_same_events_named_again_and_again_are_refused() {
    let scratch = Scratch::new();
    let event: Event = ("alloc", 1, 1, 0);
    // One list of many events, named as the trace of many devices.
    let many = Pickle::new(4)
        .raw(b"}(")
        .text("device_traces")
        .raw(b"](](")
        .event(&event)
        .raw(b"q\x01")
        .raw(b"h\x01".repeat(20_000))
        .raw(b"eq\x02")
        .raw(b"h\x02".repeat(20_000))
        .raw(b"eu")
        .end();
    assert_says(&scratch.refusal("again.pickle", many), &["again and again"]);
    // One event with far too many keys, searched again and again.
    let keys = b"NN".repeat(30_000);
    let wide = Pickle::new(4)
        .raw(b"}(")
        .text("device_traces")
        .raw(b"](](}(")
        .raw(keys)
        .raw(b"uq\x01")
        .raw(b"h\x01".repeat(20_000))
        .raw(b"eeu")
        .end();
    assert_says(&scratch.refusal("wide.pickle", wide), &["30000 keys"]);
}

#[test]
fn numbers_beyond_64_bits_are_refused_where_they_count() {
    let scratch = Scratch::new();
    let with = |number: &[u8]| {
        Pickle::new(4)
            .raw(b"}(")
            .text("device_traces")
            .raw(b"](](}(")
            .text("action")
            .text("alloc")
            .text("addr")
            .raw(number)
            .text("size")
            .int(10)
            .raw(b"ueeu")
            .end()
    };
    scratch.read("fits.pickle", with(b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00")).unwrap();
    scratch.read("below.pickle", with(b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80")).unwrap();
    for huge in [
        &b"\x8a\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"[..],
        b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\x7f\xff",
        b"\x8c\x02no",
    ] {
        assert_says(&scratch.refusal("huge.pickle", with(huge)), &["'addr' is no number"]);
    }
}
