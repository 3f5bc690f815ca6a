//! RMM's logs.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::{Scratch, assert_says, only, short};

const HEAD: &str = "Thread,Time,Action,Pointer,Size,Stream\n";

fn log(lines: &str) -> String {
    format!("{HEAD}{lines}")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn events_become_operations_in_order_with_streams_by_first_appearance() {
    let lines = "0,0,allocate,0x1,1000,7\n0,1,allocate,0x2,512,0\n0,2,free,0x1,1000,0\n\
                 0,3,free,0x2,512,0\n0,4,allocate,0x1,8,0x7\n";
    let trace = only(Scratch::new().read("unet.csv", log(lines)));
    assert_eq!(short(&trace), ["+1000@0", "+512@1", "~1000@1", "-512@1", "+8@0"]);
    assert_eq!(trace.name(), "unet");
    assert_eq!((trace.allocs(), trace.streams(), trace.slots()), (3, 2, 2));
    assert_eq!((trace.peak_live_bytes(), trace.peak_live_rounded_bytes()), (1512, 1536));
    assert_eq!((trace.allocated_bytes(), trace.live_at_end()), (1520, 1));
}

#[test]
fn columns_are_found_by_name_in_any_order_and_dress() {
    let scratch = Scratch::new();
    let text = "\u{feff}size, \"Action\" ,POINTER,Note\r\n100,\"allocate\",ab c,x\r\n\r\n\
                ,free,ab c\r\nSize,Action,Pointer\r\n7,allocate, 0xF ,";
    let trace = only(scratch.read("odd.log", text));
    assert_eq!(short(&trace), ["+100@0", "-100@0", "+7@0"]);
}

#[test]
fn what_no_allocator_is_asked_for_is_left_out_and_counted() {
    let lines = "0,0,allocate,0x1,0,0\n0,1,free,0x1,0,0\n0,2,allocate failure,0x0,99,0\n\
                 0,3,free,0x9,4,0\n0,4,allocate,0x2,10,0\n0,5,allocate,0x2,20,0\n0,6,free,0x2,20,0\n";
    let trace = only(Scratch::new().read("t.csv", log(lines)));
    assert_eq!(short(&trace), ["+10@0", "-10@0", "+20@0", "-20@0"]);
    let notes = trace.notes().join("; ");
    assert_says(
        &notes,
        &[
            "1 failed alloc",
            "1 allocation(s) of 0 bytes",
            "2 free(s) of unknown",
            "1 block(s) ended",
        ],
    );
}

#[test]
fn wrong_lines_are_named_with_line_column_and_value() {
    let scratch = Scratch::new();
    let refused = |lines: &str, words: &[&str]| {
        assert_says(&scratch.refusal("wrong.csv", log(lines)), words);
    };
    let fine = "0,0,allocate,0x1,5,0\n";
    refused(&format!("{fine}0,1,allocate,0x2,12q,0\n"), &["line 3", "Size", "'12q'"]);
    refused("0,0,allocate,0x1,-5,0\n", &["line 2", "Size", "'-5'"]);
    refused("0,0,allocate,0x1,18446744073709551616,0\n", &["line 2", "Size", "2^64-1"]);
    refused("0,0,allocate,0x1,5,green\n", &["line 2", "Stream", "'green'"]);
    refused("0,0,grow,0x1,5,0\n", &["line 2", "Action", "'grow'", "allocate failure"]);
    refused("0,0,allocate\n", &["line 2", "Stream is missing"]);
    refused("0,0,allocate,,5,0\n", &["line 2", "Pointer is missing"]);
    refused(
        &format!("0,0,allocate,0x1,{0},0\n0,1,allocate,0x2,{0},0\n", u64::MAX - 4096),
        &["line 3", "2^64"],
    );
    refused("", &["allocates nothing"]);
}

#[test]
fn files_that_are_no_logs_are_told_by_their_first_line() {
    let scratch = Scratch::new();
    assert_says(&scratch.refusal("a.csv", ""), &["empty"]);
    assert_says(&scratch.refusal("b.csv", "hello\n"), &["line 1", "'Action'", "'hello'"]);
    assert_says(&scratch.refusal("c.csv", [0_u8; 100_000]), &["line 1", "longer than"]);
    assert_says(&scratch.refusal("d.csv", "Action,Size\n"), &["no column 'Pointer'"]);
    let error = riverbed::replay::read(scratch.0.path(), None).unwrap_err().to_string();
    assert_says(&error, &["directory"]);
    let error = riverbed::replay::read("no/such.csv".as_ref(), None).unwrap_err().to_string();
    assert_says(&error, &["no/such.csv"]);
}

#[test]
fn gzip_is_known_by_its_first_bytes_and_cut_or_bent_files_are_refused() {
    let scratch = Scratch::new();
    let lines: String = (0..200).map(|n| format!("0,{n},allocate,{n:#x},{},0\n", n + 1)).collect();
    let packed = gzip(log(&lines).as_bytes());
    assert_eq!(only(scratch.read("packed.csv", &packed)).ops().len(), 200);
    assert_eq!(only(scratch.read("plain.csv.gz", log(&lines))).name(), "plain");
    for cut in (2..packed.len()).step_by(7) {
        scratch.refusal("cut.csv.gz", &packed[..cut]);
    }
    let mut bent = packed.clone();
    let middle = bent.len() / 2;
    bent[middle] ^= 0x55;
    scratch.refusal("bent.csv.gz", &bent);
    // Members one behind the other are one log.
    let double = [gzip(log("0,0,allocate,0x1,5,0\n").as_bytes()), gzip(b"0,1,free,0x1,5,0\n")];
    assert_eq!(only(scratch.read("two.csv.gz", double.concat())).ops().len(), 2);
}

#[test]
fn a_gzip_bomb_is_refused_before_it_takes_memory() {
    let scratch = Scratch::new();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(HEAD.as_bytes()).unwrap();
    let line = format!("0,0,free,{},1,0\n", "x".repeat(4000));
    let block = line.repeat(16);
    for _ in 0..1200 {
        encoder.write_all(block.as_bytes()).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert_says(&scratch.refusal("bomb.csv.gz", bomb), &["expands to more than 64.00 MiB"]);
}
