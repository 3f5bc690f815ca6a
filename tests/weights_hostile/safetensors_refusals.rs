//! Every lie a safetensors header can tell, and what the error says.

use crate::model_files::{safetensors, safetensors_raw};
use crate::{assert_says, refusal};

fn refused(header: &str, data_bytes: usize) -> String {
    refusal("m.safetensors", &safetensors_raw(header.as_bytes(), &vec![0; data_bytes]))
}

fn entry(name: &str, dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
}

fn two(first: &str, second: &str, data_bytes: usize) -> String {
    let (a, b) = (entry("a", "U8", "[4]", first), entry("b", "U8", "[4]", second));
    refused(&format!("{{{a},{b}}}"), data_bytes)
}

#[test]
fn an_empty_file_is_no_model() {
    assert_says(&refusal("model", b""), &["not a model file", "it is empty"]);
    assert_says(&refusal("m.safetensors", b""), &["the header length needs 8 bytes", "0 left"]);
}

#[test]
fn a_file_of_another_kind_is_named_by_its_start() {
    let text = refusal("model", b"\x7fELF\x02\x01\x01\0\0");
    assert_says(&text, &["byte 0", "not a model file", "\\x7fELF", "GGUF", "safetensors"]);
    assert_says(&refusal("pytorch_model.bin", b"PK\x03\x04rest"), &["PyTorch pickle"]);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    assert_says(&refusal("m.safetensors", pointer), &["Git LFS pointer"]);
}

#[test]
fn a_header_length_beyond_the_limit_is_refused_before_it_is_allocated() {
    let mut file = safetensors(&[("a", "U8", &[1], &[0])]);
    for length in [u64::MAX, 1 << 40, 100_000_001] {
        file[..8].copy_from_slice(&length.to_le_bytes());
        assert_says(
            &refusal("m.safetensors", &file),
            &["byte 0", &length.to_string(), "more than"],
        );
    }
}

#[test]
fn a_header_length_beyond_the_file_is_refused_before_it_is_allocated() {
    let mut file = safetensors(&[("a", "U8", &[1], &[0])]);
    file[..8].copy_from_slice(&99_999_999u64.to_le_bytes());
    assert_says(&refusal("m.safetensors", &file), &["needs 99999999 bytes", "left"]);
}

#[test]
fn a_header_that_is_not_an_object_is_refused() {
    assert_says(&refused("[1, 2]", 0), &["byte 8", "does not start with '{'"]);
    assert_says(&refused("", 0), &["does not start with '{'"]);
    assert_says(&refused("{} x", 0), &["malformed", "trailing characters"]);
}

#[test]
fn a_header_that_is_not_utf8_is_refused_at_its_byte() {
    let file = safetensors_raw(b"{\"a\xff\":1}", &[]);
    assert_says(&refusal("m.safetensors", &file), &["byte 11", "not UTF-8"]);
}

#[test]
fn deeply_nested_json_is_refused_without_recursion() {
    let deep = "[".repeat(100_000);
    assert_says(&refused(&format!("{{\"a\":{deep}"), 0), &["malformed"]);
    assert_says(&refused(&format!("{{\"__metadata__\":{deep}"), 0), &["malformed"]);
    let objects = "{\"a\":".repeat(50_000);
    assert_says(&refused(&objects, 0), &["malformed"]);
}

#[test]
fn duplicate_names_are_refused() {
    let a = entry("same", "U8", "[4]", "[0,4]");
    let b = entry("same", "U8", "[4]", "[4,8]");
    assert_says(&refused(&format!("{{{a},{b}}}"), 8), &["duplicate tensor name 'same'"]);
    // Spelled differently in JSON, the same name all the same.
    let b = entry("s\\u0061me", "U8", "[4]", "[4,8]");
    assert_says(&refused(&format!("{{{a},{b}}}"), 8), &["duplicate tensor name 'same'"]);
    let twice = r#"{"__metadata__":{},"__metadata__":{}}"#;
    assert_says(&refused(twice, 0), &["duplicate key '__metadata__'"]);
    let fields = r#"{"a":{"dtype":"U8","shape":[1],"shape":[2],"data_offsets":[0,1]}}"#;
    assert_says(&refused(fields, 1), &["duplicate field `shape`"]);
}

#[test]
fn unknown_dtypes_are_refused_by_name() {
    let text = refused(&format!("{{{}}}", entry("a", "F128", "[1]", "[0,16]")), 16);
    assert_says(&text, &["malformed", "F128"]);
}

#[test]
fn offsets_out_of_range_are_refused() {
    let text = two("[0,4]", "[4,4096]", 8);
    assert_says(&text, &["tensor 'b'", "[4, 4096)", "out of range", "8 bytes of data"]);
    let text = two("[0,4]", "[4,18446744073709551615]", 8);
    assert_says(&text, &["out of range", "18446744073709551615"]);
    assert_says(&two("[0,4]", "[4,18446744073709551616]", 8), &["malformed"]);
    assert_says(&two("[0,4]", "[-4,8]", 8), &["malformed", "-4"]);
}

#[test]
fn offsets_that_run_backwards_are_refused() {
    assert_says(&two("[0,4]", "[8,4]", 8), &["tensor 'b'", "ends at data offset 4", "begin 8"]);
}

#[test]
fn overlapping_tensors_are_refused() {
    let text = two("[0,4]", "[2,6]", 6);
    assert_says(&text, &["tensor 'b'", "begin 2 overlaps tensor 'a'", "ends at 4"]);
    assert_says(&two("[0,4]", "[0,4]", 4), &["overlaps"]);
}

#[test]
fn holes_between_and_behind_tensors_are_refused() {
    assert_says(&two("[0,4]", "[6,10]", 10), &["tensor 'b'", "hole of 2 bytes"]);
    assert_says(&two("[0,4]", "[4,8]", 11), &["3 bytes behind the last tensor"]);
}

#[test]
fn sizes_that_contradict_the_shape_are_refused() {
    let text = refused(&format!("{{{}}}", entry("a", "F32", "[2,3]", "[0,20]")), 20);
    assert_says(&text, &["tensor 'a'", "F32 of shape [2, 3] is 24 bytes", "span 20"]);
    let text = refused(&format!("{{{}}}", entry("a", "F4", "[3]", "[0,2]")), 2);
    assert_says(&text, &["3 elements", "whole blocks of F4"]);
}

#[test]
fn shapes_that_overflow_are_refused() {
    let shape = "[4294967296,4294967296,4294967296]";
    let text = refused(&format!("{{{}}}", entry("a", "U8", shape, "[0,0]")), 0);
    assert_says(&text, &["tensor 'a'", "4294967296", "2^64 elements"]);
    let text = refused(&format!("{{{}}}", entry("a", "F64", "[9223372036854775808]", "[0,0]")), 0);
    assert_says(&text, &["2^64 bytes"]);
}

#[test]
fn long_and_unprintable_names_do_not_flood_the_error() {
    let text = refused(&format!("{{{}}}", entry(&"\\u0007".repeat(9000), "U8", "[1]", "[0,2]")), 2);
    assert_says(&text, &["\\u{7}", "…"]);
    assert!(text.len() < 1500, "{}", text.len());
}

#[test]
fn a_large_header_of_many_tensors_stays_within_the_allocation_bound() {
    let names: Vec<String> = (0..20_000).map(|i| format!("{i:x}")).collect();
    let tensors: Vec<_> =
        names.iter().map(|name| (name.as_str(), "U8", &[1u64][..], &[0u8][..])).collect();
    let mut file = safetensors(&tensors);
    file.push(0);
    assert_says(&refusal("m.safetensors", &file), &["1 bytes behind the last tensor"]);
}
