//! Mutated headers: flipped bits, emptied bytes, made-up integers, splices. The seed is fixed,
//! so that a failure names a case that can be run again.

use std::path::Path;

use crate::model_files::{GgufTensor, Value, gguf, safetensors, safetensors_raw, shard_index};
use crate::open_bounded;

const ROUNDS: u64 = 12_000;

/// Numbers a parser might believe.
const HUGE: [u64; 10] = [
    u64::MAX,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 7,
    1 << 48,
    1 << 32,
    u32::MAX as u64,
    100_000_000,
    1 << 20,
    0,
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn huge(&mut self) -> u64 {
        HUGE[self.below(HUGE.len())]
    }
}

/// One mutation of `bytes`. `numbers_are_text` chooses how integers are written.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random, numbers_are_text: bool) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    match random.below(8) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = if random.below(2) == 0 { 0 } else { 0xff },
        3 | 4 if numbers_are_text => {
            let digits: Vec<usize> =
                (0..bytes.len()).filter(|&i| bytes[i].is_ascii_digit()).collect();
            if let Some(&start) = digits.get(random.below(digits.len())) {
                let run = bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count();
                let number = random.huge().to_string();
                bytes.splice(start..start + run, number.bytes());
            }
        }
        3 => {
            let value = random.huge().to_le_bytes();
            let end = (at + 8).min(bytes.len());
            bytes[at..end].copy_from_slice(&value[..end - at]);
        }
        4 => {
            let value = (random.huge() as u32).to_le_bytes();
            let end = (at + 4).min(bytes.len());
            bytes[at..end].copy_from_slice(&value[..end - at]);
        }
        5 => {
            let from = random.below(bytes.len());
            let len = random.below((bytes.len() - from).min(64) + 1);
            let piece = bytes[from..from + len].to_vec();
            bytes.splice(at..at, piece);
        }
        6 => {
            let end = (at + random.below(24)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            let piece: Vec<u8> = (0..random.below(16)).map(|_| random.next() as u8).collect();
            bytes.splice(at..at, piece);
        }
    }
}

/// Opens a mutated file `ROUNDS` times. Returns how many were still read.
fn rounds(path: &Path, extra_bytes: u64, mut make: impl FnMut(&mut Random) -> Vec<u8>) -> u64 {
    let mut read = 0;
    for round in 0..ROUNDS {
        let mut random = Random((round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.next();
        let bytes = make(&mut random);
        std::fs::write(path, &bytes).unwrap();
        let case = format!("{} round {round}", path.display());
        read += u64::from(open_bounded(path, bytes.len() as u64 + extra_bytes, &case).is_ok());
    }
    read
}

fn tensors_of(count: usize) -> Vec<u8> {
    let names: Vec<String> = (0..count).map(|i| format!("model.layers.{i}.w")).collect();
    let tensors: Vec<_> =
        names.iter().map(|name| (name.as_str(), "F16", &[2u64, 4][..], &[9u8; 16][..])).collect();
    safetensors(&tensors)
}

#[test]
fn mutated_safetensors_headers_never_panic_hang_or_swell() {
    let directory = tempfile::tempdir().unwrap();
    let whole = [tensors_of(1), tensors_of(4), tensors_of(12)];
    let read = rounds(&directory.path().join("m.safetensors"), 0, |random| {
        let file = &whole[random.below(whole.len())];
        let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let (head, data) = file.split_at(8 + header_len);
        let mut header = head[8..].to_vec();
        for _ in 0..=random.below(3) {
            mutate(&mut header, random, true);
        }
        // Mostly with the length put right, so that the mutation is reached.
        let mut bytes = safetensors_raw(&header, data);
        if random.below(8) == 0 {
            bytes[..8].copy_from_slice(&random.huge().to_le_bytes());
        }
        bytes
    });
    assert!(read > 0 && read < ROUNDS, "{read} of {ROUNDS} read: the mutations miss");
}

#[test]
fn mutated_gguf_headers_never_panic_hang_or_swell() {
    let directory = tempfile::tempdir().unwrap();
    let words = ["the", "quick", "", "fox"].map(Value::text).to_vec();
    let nested = Value::Array(9, vec![Value::Array(4, vec![Value::U32(7); 3]); 2]);
    let tensors: Vec<GgufTensor> =
        (0..6).map(|i| GgufTensor::new(&format!("blk.{i}.ffn"), &[32, 2], 3, &[5; 40])).collect();
    let pairs = [
        ("general.architecture", Value::text("llama")),
        ("general.alignment", Value::U32(32)),
        ("split.count", Value::U16(1)),
        ("tokenizer.ggml.tokens", Value::Array(8, words)),
        ("nested", nested),
        ("flag", Value::Bool(true)),
        ("byte", Value::U8(1)),
    ];
    let whole = [gguf(2, &pairs[..2], &tensors[..2]), gguf(3, &pairs, &tensors)];
    let read = rounds(&directory.path().join("m.gguf"), 0, |random| {
        let mut bytes = whole[random.below(whole.len())].clone();
        let header_len = bytes.len() * 3 / 4;
        let data = bytes.split_off(header_len);
        for _ in 0..=random.below(3) {
            mutate(&mut bytes, random, false);
        }
        bytes.extend(data);
        bytes
    });
    assert!(read > 0 && read < ROUNDS, "{read} of {ROUNDS} read: the mutations miss");
}

#[test]
fn mutated_shard_indexes_never_panic_hang_or_swell() {
    let directory = tempfile::tempdir().unwrap();
    let shard = tensors_of(2);
    std::fs::write(directory.path().join("a.safetensors"), &shard).unwrap();
    let whole = shard_index(&[
        ("model.layers.0.w", "a.safetensors"),
        ("model.layers.1.w", "a.safetensors"),
    ]);
    let path = directory.path().join("m.safetensors.index.json");
    let read = rounds(&path, shard.len() as u64, |random| {
        let mut bytes = whole.clone();
        mutate(&mut bytes, random, true);
        bytes
    });
    assert!(read > 0 && read < ROUNDS, "{read} of {ROUNDS} read: the mutations miss");
}
