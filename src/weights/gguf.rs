//! The GGUF header, versions 2 and 3, little-endian: counts, key/value pairs (`gguf_pairs`),
//! tensor entries, then the tensors' bytes. Bytes between tensors are padding and are tolerated,
//! as ggml aligns every tensor. Quantized values are not decoded here.

use crate::base::{FileError, align_up};

use super::cursor::Cursor;
use super::dtype::Dtype;
use super::gguf_pairs::{PAIR_BYTES_MIN, Pairs};
use super::tensor::{Tensor, duplicate, shown, sized};

/// The four bytes a GGUF file starts with.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";

/// Where tensors begin when `general.alignment` says nothing, in bytes.
const ALIGNMENT_BYTES_DEFAULT: u64 = 32;

/// ggml has no tensors of more dimensions.
const DIMS_MAX: u32 = 4;

/// The format's own limit on keys, in bytes; tensor names in use are far below it.
pub(super) const NAME_BYTES_MAX: u64 = 65_535;

/// The smallest tensor entry, in bytes: an empty name, a dimension count of 0, a type and an
/// offset.
const ENTRY_BYTES_MIN: u64 = 8 + 4 + 4 + 8;

/// What a header holds.
#[derive(Debug)]
pub(super) struct Header {
    /// In the order of their bytes, with file index 0.
    pub(super) tensors: Vec<Tensor>,
    /// `general.architecture`.
    pub(super) architecture: Option<String>,
    /// `general.name`.
    pub(super) name: Option<String>,
}

/// A tensor entry before the start of the data is known.
struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    len_bytes: u64,
    data_offset: u64,
    /// Where the entry stands, for errors.
    at: u64,
}

/// Reads the header.
pub(super) fn read(mut cursor: Cursor) -> Result<Header, FileError> {
    let magic: [u8; 4] = cursor.array("the magic")?;
    if magic != MAGIC {
        let found = magic.escape_ascii();
        let reason = format!("the magic is '{found}' and not 'GGUF': not a GGUF file");
        return Err(FileError::at(cursor.path(), 0, reason));
    }
    check_version(&mut cursor)?;
    let tensor_count = cursor.u64("the tensor count")?;
    let pair_count = cursor.u64("the key/value count")?;
    cursor.need_entries(tensor_count, ENTRY_BYTES_MIN, "tensor entries")?;
    cursor.need_entries(pair_count, PAIR_BYTES_MIN, "key/value pairs")?;
    let pairs = Pairs::read(&mut cursor, pair_count)?;
    if let Some(count) = pairs.split_count.filter(|&count| count > 1) {
        let number = pairs.split_number.unwrap_or(0).saturating_add(1);
        return Err(FileError::new(
            cursor.path(),
            format!(
                "part {number} of a GGUF model split in {count}; merge the parts first \
                 (llama-gguf-split --merge)"
            ),
        ));
    }
    let alignment = pairs.alignment.unwrap_or(ALIGNMENT_BYTES_DEFAULT);
    cursor.need_entries(tensor_count, ENTRY_BYTES_MIN, "tensor entries")?;
    let mut entries = Vec::new();
    for _ in 0..tensor_count {
        entries.push(read_entry(&mut cursor, alignment)?);
    }
    let tensors = place(&cursor, entries, alignment)?;
    Ok(Header { tensors, architecture: pairs.architecture, name: pairs.name })
}

fn check_version(cursor: &mut Cursor) -> Result<(), FileError> {
    let at = cursor.position();
    let version = cursor.u32("the version")?;
    let reason = match version {
        2 | 3 => return Ok(()),
        // Versions are small: one with nothing in its low half was written the other way round.
        _ if version != 0 && version & 0xffff == 0 => format!(
            "a big-endian GGUF file (version {}); only little-endian ones are read",
            version.swap_bytes()
        ),
        _ => format!("GGUF version {version} is not supported; versions 2 and 3 are"),
    };
    Err(FileError::at(cursor.path(), at, reason))
}

fn read_entry(cursor: &mut Cursor, alignment: u64) -> Result<Entry, FileError> {
    let at = cursor.position();
    let name = cursor.string(NAME_BYTES_MAX, "a tensor name")?;
    let refuse = |cursor: &Cursor, reason: String| {
        FileError::at(cursor.path(), at, format!("tensor '{}': {reason}", shown(&name)))
    };
    let dims = cursor.u32("a dimension count")?;
    if dims > DIMS_MAX {
        return Err(refuse(cursor, format!("{dims} dimensions are more than {DIMS_MAX}")));
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        shape.push(cursor.u64("a dimension")?);
    }
    let kind = cursor.u32("a tensor type")?;
    let dtype = Dtype::from_ggml(kind)
        .ok_or_else(|| refuse(cursor, format!("unknown ggml type {kind}")))?;
    let data_offset = cursor.u64("a tensor offset")?;
    let row = shape.first().copied().unwrap_or(1);
    if row % dtype.block_elements() != 0 {
        let block = dtype.block_elements();
        let reason = format!("rows of {row} elements are not whole blocks of {dtype} ({block})");
        return Err(refuse(cursor, reason));
    }
    shape.reverse();
    let len_bytes = sized(dtype, &shape).map_err(|reason| refuse(cursor, reason))?;
    if data_offset % alignment != 0 {
        let reason = format!("offset {data_offset} is not aligned to {alignment} bytes");
        return Err(refuse(cursor, reason));
    }
    Ok(Entry { name, dtype, shape, len_bytes, data_offset, at })
}

/// Turns data offsets into file offsets and checks that tensors share no bytes.
fn place(
    cursor: &Cursor,
    mut entries: Vec<Entry>,
    alignment: u64,
) -> Result<Vec<Tensor>, FileError> {
    if let Some(name) = duplicate(entries.iter().map(|entry| entry.name.as_str())) {
        let reason = format!("duplicate tensor name '{}'", shown(name));
        return Err(FileError::new(cursor.path(), reason));
    }
    let data_start = align_up(cursor.position(), alignment)
        .ok_or_else(|| cursor.error(format!("no room for data aligned to {alignment} bytes")))?;
    // Stable: empty tensors at one offset keep the order of their entries.
    entries.sort_by_key(|entry| (entry.data_offset, entry.len_bytes));
    let mut tensors: Vec<Tensor> = Vec::with_capacity(entries.len());
    let mut last_filled: Option<usize> = None;
    for Entry { name, dtype, shape, len_bytes, data_offset, at } in entries {
        let refuse = |reason: String| {
            FileError::at(cursor.path(), at, format!("tensor '{}': {reason}", shown(&name)))
        };
        let offset_bytes = data_start
            .checked_add(data_offset)
            .filter(|begin| begin.checked_add(len_bytes).is_some_and(|end| end <= cursor.len()))
            .ok_or_else(|| {
                refuse(format!(
                    "{len_bytes} bytes at data offset {data_offset} are out of range: data \
                     starts at {data_start} and the file has {} bytes",
                    cursor.len()
                ))
            })?;
        if len_bytes > 0 {
            let before = last_filled.and_then(|index| tensors.get(index));
            if let Some(before) = before.filter(|before| before.end_bytes() > offset_bytes) {
                return Err(refuse(format!(
                    "data offset {data_offset} overlaps tensor '{}'",
                    shown(&before.name)
                )));
            }
            last_filled = Some(tensors.len());
        }
        tensors.push(Tensor { name, dtype, shape, file: 0, offset_bytes, len_bytes });
    }
    Ok(tensors)
}
