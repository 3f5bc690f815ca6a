//! Small model files for tests, byte for byte: safetensors, shard indexes and GGUF. Included by
//! path (`#[path = "support/model_files.rs"] mod model_files;`).
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part.

use std::fmt::Write as _;

/// A tensor for [`safetensors`]: name, dtype as the header spells it, shape, bytes.
pub type SafeTensor<'a> = (&'a str, &'a str, &'a [u64], &'a [u8]);

/// A valid safetensors file with the tensors in the order given.
pub fn safetensors(tensors: &[SafeTensor<'_>]) -> Vec<u8> {
    let (mut header, mut data) =
        (String::from("{\"__metadata__\":{\"format\":\"pt\"}"), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        write!(
            header,
            ",\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{begin},{}]}}",
            data.len()
        )
        .unwrap();
    }
    header.push('}');
    // Writers pad with spaces, so that the data starts aligned.
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    safetensors_raw(header.as_bytes(), &data)
}

/// A safetensors file with any header, right or wrong.
pub fn safetensors_raw(header: &[u8], data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.extend_from_slice(data);
    file
}

/// A shard index of (tensor, shard) pairs.
pub fn shard_index(entries: &[(&str, &str)]) -> Vec<u8> {
    let map: Vec<String> = entries.iter().map(|(t, s)| format!("    \"{t}\": \"{s}\"")).collect();
    format!(
        "{{\n  \"metadata\": {{\"total_size\": 0}},\n  \"weight_map\": {{\n{}\n  }}\n}}\n",
        map.join(",\n")
    )
    .into_bytes()
}

/// A value of a GGUF pair.
#[derive(Clone)]
pub enum Value {
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    F32(f32),
    Bool(bool),
    Text(String),
    /// Values of one kind; the kind's number stands apart so that an array can be empty.
    Array(u32, Vec<Value>),
    /// Any kind's number with any bytes, right or wrong.
    Raw(u32, Vec<u8>),
}

impl Value {
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    fn kind(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::U16(_) => 2,
            Self::U32(_) => 4,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => 8,
            Self::Array(..) => 9,
            Self::U64(_) => 10,
            Self::Raw(kind, _) => *kind,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::U8(v) => out.push(*v),
            Self::U16(v) => out.extend(v.to_le_bytes()),
            Self::U32(v) => out.extend(v.to_le_bytes()),
            Self::U64(v) => out.extend(v.to_le_bytes()),
            Self::F32(v) => out.extend(v.to_le_bytes()),
            Self::Bool(v) => out.push(u8::from(*v)),
            Self::Text(v) => put_text(out, v.as_bytes()),
            Self::Array(kind, values) => {
                out.extend(kind.to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| value.put(out));
            }
            Self::Raw(_, bytes) => out.extend(bytes),
        }
    }
}

/// A tensor for [`gguf`]: its `ne` is fastest dimension first, as the file has it.
#[derive(Clone)]
pub struct GgufTensor {
    pub name: Vec<u8>,
    pub ne: Vec<u64>,
    pub ggml_type: u32,
    pub bytes: Vec<u8>,
    /// Overrides the offset that the builder would write.
    pub offset: Option<u64>,
}

impl GgufTensor {
    pub fn new(name: &str, ne: &[u64], ggml_type: u32, bytes: &[u8]) -> Self {
        let (name, ne, bytes) = (name.as_bytes().to_vec(), ne.to_vec(), bytes.to_vec());
        Self { name, ne, ggml_type, bytes, offset: None }
    }

    /// An F32 vector of `len` elements.
    pub fn floats(name: &str, len: usize) -> Self {
        Self::new(name, &[len as u64], 0, &vec![1; len * 4])
    }

    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }
}

/// A valid GGUF file of version 2 or 3 (they differ in the number only), tensors in the order
/// given, each aligned to 32 bytes or to a `general.alignment` among the pairs.
pub fn gguf(version: u32, pairs: &[(&str, Value)], tensors: &[GgufTensor]) -> Vec<u8> {
    let alignment = pairs
        .iter()
        .find_map(|(key, value)| match value {
            Value::U32(v) if *key == "general.alignment" => Some(*v as usize),
            _ => None,
        })
        .unwrap_or(32)
        .clamp(1, 1 << 12);
    let mut file = b"GGUF".to_vec();
    file.extend(version.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        put_text(&mut file, key.as_bytes());
        file.extend(value.kind().to_le_bytes());
        value.put(&mut file);
    }
    let mut data: Vec<u8> = Vec::new();
    for tensor in tensors {
        data.resize(data.len().next_multiple_of(alignment), 0);
        put_text(&mut file, &tensor.name);
        file.extend((tensor.ne.len() as u32).to_le_bytes());
        tensor.ne.iter().for_each(|dim| file.extend(dim.to_le_bytes()));
        file.extend(tensor.ggml_type.to_le_bytes());
        file.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
        data.extend_from_slice(&tensor.bytes);
    }
    file.resize(file.len().next_multiple_of(alignment), 0);
    file.extend(data);
    file
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
}
