//! Every lie a GGUF header can tell, and what the error says.

use crate::model_files::{GgufTensor, Value, gguf};
use crate::{assert_says, refusal};

fn refused(pairs: &[(&str, Value)], tensors: &[GgufTensor]) -> String {
    refusal("m.gguf", &gguf(3, pairs, tensors))
}

fn patched(at: usize, bytes: &[u8]) -> String {
    let mut file = gguf(3, &[("a", Value::U8(1))], &[GgufTensor::floats("t", 8)]);
    file[at..at + bytes.len()].copy_from_slice(bytes);
    refusal("m.gguf", &file)
}

#[test]
fn a_wrong_magic_is_refused_with_what_was_found() {
    assert_says(&patched(0, b"GGML"), &["byte 0", "'GGML'", "'GGUF'"]);
}

#[test]
fn unknown_versions_are_refused() {
    assert_says(&patched(4, &1u32.to_le_bytes()), &["byte 4", "version 1 is not supported"]);
    assert_says(&patched(4, &4u32.to_le_bytes()), &["version 4", "versions 2 and 3"]);
    assert_says(&patched(4, &0u32.to_le_bytes()), &["version 0"]);
}

#[test]
fn big_endian_files_are_refused_as_such() {
    assert_says(&patched(4, &3u32.to_be_bytes()), &["big-endian", "version 3"]);
}

#[test]
fn huge_counts_are_refused_before_anything_is_allocated() {
    for count in [u64::MAX, 1 << 62, 1 << 32, 1000] {
        let text = patched(8, &count.to_le_bytes());
        assert_says(&text, &[&format!("{count} tensor entries"), "cannot be in the"]);
        let text = patched(16, &count.to_le_bytes());
        assert_says(&text, &[&format!("{count} key/value pairs"), "cannot be in the"]);
    }
}

#[test]
fn huge_string_lengths_are_refused() {
    let text = patched(24, &u64::MAX.to_le_bytes());
    assert_says(&text, &["byte 24", "a key of 18446744073709551615 bytes", "65535 allowed"]);
    assert_says(&patched(24, &60_000u64.to_le_bytes()), &["a key needs 60000 bytes", "left"]);
    let value = Value::Raw(8, (1u64 << 60).to_le_bytes().to_vec());
    assert_says(&refused(&[("s", value)], &[]), &["a string needs 1152921504606846976 bytes"]);
}

#[test]
fn huge_array_lengths_are_refused() {
    for (kind, count) in [(4u32, u64::MAX), (8, 1 << 40), (9, 1 << 61), (0, 1 << 33)] {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(count.to_le_bytes());
        let text = refused(&[("a", Value::Raw(9, bytes))], &[]);
        assert_says(&text, &[&format!("{count} array values"), "cannot be in the"]);
    }
}

#[test]
fn deeply_nested_arrays_are_refused() {
    let nest = |depth: usize| {
        (0..depth)
            .fold(Value::Array(4, vec![Value::U32(1)]), |inner, _| Value::Array(9, vec![inner]))
    };
    let text = refused(&[("deep", nest(5000))], &[]);
    assert_says(&text, &["'deep'", "nests arrays more than 4 deep"]);
}

#[test]
fn unknown_value_types_are_refused() {
    let text = refused(&[("odd", Value::Raw(13, vec![0; 8]))], &[]);
    assert_says(&text, &["unknown value type 13", "'odd'"]);
    let mut array = 77u32.to_le_bytes().to_vec();
    array.extend(1u64.to_le_bytes());
    array.extend([0; 16]);
    assert_says(&refused(&[("odd", Value::Raw(9, array))], &[]), &["unknown value type 77"]);
}

#[test]
fn alignments_that_are_no_power_of_two_are_refused() {
    for bad in [0, 3, 48] {
        let text = refused(&[("general.alignment", Value::U32(bad))], &[]);
        assert_says(&text, &[&format!("alignment of {bad} is not a power of two"), "byte 53"]);
    }
    let text = refused(&[("general.alignment", Value::text("32"))], &[]);
    assert_says(&text, &["general.alignment", "value type 8", "unsigned integer"]);
    let text =
        refused(&[("general.alignment", Value::U64(1 << 63))], &[GgufTensor::floats("t", 1)]);
    assert_says(&text, &["out of range", "9223372036854775808"]);
}

#[test]
fn names_that_are_not_utf8_are_refused_at_their_byte() {
    let mut tensor = GgufTensor::floats("name", 1);
    tensor.name[2] = 0xff;
    assert_says(&refused(&[], &[tensor]), &["byte 34", "a tensor name is not UTF-8"]);
    assert_says(&patched(32, &[0xc0]), &["byte 32", "a key is not UTF-8"]);
}

#[test]
fn duplicate_names_and_keys_are_refused() {
    let text = refused(&[], &[GgufTensor::floats("t", 1), GgufTensor::floats("t", 1)]);
    assert_says(&text, &["duplicate tensor name 't'"]);
    let text = refused(&[("k", Value::U8(1)), ("k", Value::U8(2))], &[]);
    assert_says(&text, &["byte 38", "duplicate key 'k'"]);
}

#[test]
fn too_many_dimensions_are_refused() {
    let text = refused(&[], &[GgufTensor::new("t", &[1; 5], 0, &[0; 4])]);
    assert_says(&text, &["tensor 't'", "5 dimensions are more than 4"]);
    let mut file = gguf(3, &[], &[GgufTensor::floats("t", 1)]);
    file[33..37].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_says(&refusal("m.gguf", &file), &["4294967295 dimensions"]);
}

#[test]
fn unknown_tensor_types_are_refused_by_number() {
    for kind in [4, 31, 38, 200] {
        let text = refused(&[], &[GgufTensor::new("t", &[32], kind, &[0; 64])]);
        assert_says(&text, &["tensor 't'", &format!("unknown ggml type {kind}")]);
    }
}

#[test]
fn rows_that_are_not_whole_blocks_are_refused() {
    // 64 elements in all would be two blocks of 32, but no row is one.
    let text = refused(&[], &[GgufTensor::new("t", &[16, 4], 8, &[0; 68])]);
    assert_says(&text, &["rows of 16 elements", "whole blocks of Q8_0 (32)"]);
    let text = refused(&[], &[GgufTensor::new("t", &[], 8, &[0; 34])]);
    assert_says(&text, &["rows of 1 elements"]);
}

#[test]
fn shapes_that_overflow_are_refused() {
    let text = refused(&[], &[GgufTensor::new("t", &[1 << 40, 1 << 40], 0, &[])]);
    assert_says(&text, &["tensor 't'", "2^64 elements"]);
    let text = refused(&[], &[GgufTensor::new("t", &[1 << 62], 0, &[])]);
    assert_says(&text, &["2^64 bytes"]);
}

#[test]
fn offsets_out_of_range_are_refused() {
    let text = refused(&[], &[GgufTensor::floats("t", 8).at(1 << 20)]);
    assert_says(&text, &["tensor 't'", "32 bytes at data offset 1048576", "out of range"]);
    let text = refused(&[], &[GgufTensor::floats("t", 8).at(u64::MAX - 31)]);
    assert_says(&text, &["out of range", "18446744073709551584"]);
}

#[test]
fn offsets_off_the_alignment_are_refused() {
    let text = refused(&[], &[GgufTensor::floats("t", 8).at(4)]);
    assert_says(&text, &["offset 4 is not aligned to 32 bytes"]);
}

#[test]
fn overlapping_tensors_are_refused() {
    let text = refused(&[], &[GgufTensor::floats("a", 16), GgufTensor::floats("b", 16).at(32)]);
    assert_says(&text, &["tensor 'b'", "data offset 32 overlaps tensor 'a'"]);
    let empty = GgufTensor::new("e", &[0], 0, &[]);
    let b = GgufTensor::floats("b", 16).at(32);
    let text = refused(&[], &[GgufTensor::floats("a", 16), empty.at(32), b]);
    assert_says(&text, &["overlaps tensor 'a'"]);
}

#[test]
fn a_part_of_a_split_model_is_refused_with_the_way_out() {
    let pairs = [("split.no", Value::U16(1)), ("split.count", Value::U16(3))];
    assert_says(&refused(&pairs, &[]), &["part 2", "split in 3", "merge"]);
}

#[test]
fn a_large_header_of_many_tensors_stays_within_the_allocation_bound() {
    let tensors: Vec<GgufTensor> =
        (0..20_000).map(|i| GgufTensor::new(&format!("{i:x}"), &[0], 0, &[])).collect();
    let text = refused(&[], &[&tensors[..], &tensors[7..8]].concat());
    assert_says(&text, &["duplicate tensor name '7'"]);
}
