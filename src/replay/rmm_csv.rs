//! RMM's allocation log: CSV, a line an event, columns found by the names in the first line.

use std::collections::HashMap;
use std::io::{BufRead, Read};

use super::trace::{Builder, Live};

/// No line of a log is longer; a file without line ends is no log.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Feeds every event of `input` to `builder`.
///
/// # Errors
/// Line, column and value of what cannot be read; what the input says.
pub(super) fn read(mut input: impl BufRead, builder: &mut Builder) -> Result<(), String> {
    let mut line = Vec::new();
    let mut number = 0_u64;
    let mut next = |line: &mut Vec<u8>| -> Result<Option<u64>, String> {
        line.clear();
        number += 1;
        let got = input
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', line)
            .map_err(|error| format!("line {number}: {error}"))?;
        if got as u64 == LINE_BYTES_MAX {
            return Err(format!("line {number} is longer than {LINE_BYTES_MAX} bytes: no CSV log"));
        }
        Ok((got > 0).then_some(number))
    };
    let columns = match next(&mut line)? {
        Some(_) => Columns::of(&line).map_err(|error| format!("line 1: {error}"))?,
        None => return Err("the file is empty".into()),
    };
    let mut log = Log { builder, live: HashMap::new(), skipped: Skipped::default() };
    while let Some(number) = next(&mut line)? {
        log.line(&columns, &line).map_err(|error| format!("line {number}: {error}"))?;
    }
    let skipped = log.skipped;
    builder.note(skipped.failures, "failed allocation(s) skipped");
    builder.note(skipped.empty, "allocation(s) of 0 bytes left out");
    builder.note(skipped.unknown, "free(s) of unknown pointers skipped");
    builder.note(skipped.again, "block(s) ended by a second allocation of their pointer");
    Ok(())
}

/// Where the columns are.
struct Columns {
    action: usize,
    pointer: usize,
    size: usize,
    stream: Option<usize>,
}

impl Columns {
    fn of(line: &[u8]) -> Result<Self, String> {
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        let names: Vec<&[u8]> = fields(line).collect();
        let find =
            |name: &str| names.iter().position(|field| field.eq_ignore_ascii_case(name.as_bytes()));
        let need = |name: &str| {
            find(name).ok_or_else(|| {
                format!(
                    "no column '{name}'; a log begins with 'Thread,Time,Action,Pointer,Size,Stream', \
                     this file with '{}'",
                    shown(line)
                )
            })
        };
        Ok(Self {
            action: need("Action")?,
            pointer: need("Pointer")?,
            size: need("Size")?,
            stream: find("Stream"),
        })
    }
}

/// How many events were left out, and why.
#[derive(Default, Clone, Copy)]
struct Skipped {
    failures: u64,
    empty: u64,
    unknown: u64,
    again: u64,
}

/// A log being read.
struct Log<'a> {
    builder: &'a mut Builder,
    live: HashMap<Pointer, Live>,
    skipped: Skipped,
}

/// What names a block: an address as a rule, else any text.
#[derive(PartialEq, Eq, Hash)]
enum Pointer {
    Address(u64),
    Text(Box<[u8]>),
}

impl Pointer {
    fn of(field: &[u8]) -> Self {
        hexadecimal(field).map_or_else(|| Self::Text(field.into()), Self::Address)
    }
}

impl Log<'_> {
    fn line(&mut self, columns: &Columns, line: &[u8]) -> Result<(), String> {
        // A log has six columns; those of a later version are not looked at.
        let mut row: [&[u8]; 16] = [&[]; 16];
        let mut count = 0;
        for (cell, field) in row.iter_mut().zip(fields(line)) {
            *cell = field;
            count += 1;
        }
        if count == 1 && row[0].is_empty() {
            return Ok(());
        }
        let field = |at: usize, name: &str| {
            row.get(at)
                .filter(|field| at < count && !field.is_empty())
                .copied()
                .ok_or_else(|| format!("column {name} is missing"))
        };
        let number = |at: usize, name: &str| {
            let text = field(at, name)?;
            number(text).ok_or_else(|| {
                format!("column {name}: '{}' is not a number from 0 to 2^64-1", shown(text))
            })
        };
        let action = field(columns.action, "Action")?;
        if action.eq_ignore_ascii_case(b"action") {
            return Ok(()); // The header again: logs put one behind the other.
        }
        let stream = match columns.stream {
            Some(at) => self.builder.stream(number(at, "Stream")?)?,
            None => self.builder.stream(0)?,
        };
        match action {
            b"allocate" => {
                let bytes = number(columns.size, "Size")?;
                if bytes == 0 {
                    self.skipped.empty += 1;
                    return Ok(());
                }
                let pointer = Pointer::of(field(columns.pointer, "Pointer")?);
                if let Some(live) = self.live.remove(&pointer) {
                    self.skipped.again += 1;
                    self.builder.free(live, None)?;
                }
                let live = self
                    .builder
                    .alloc(bytes, stream)
                    .map_err(|error| format!("column Size: {error}"))?;
                self.live.insert(pointer, live);
            }
            b"free" => match self.live.remove(&Pointer::of(field(columns.pointer, "Pointer")?)) {
                Some(live) => self.builder.free(live, Some(stream))?,
                None => self.skipped.unknown += 1,
            },
            b"allocate failure" => self.skipped.failures += 1,
            other => {
                return Err(format!(
                    "column Action: '{}' is not one of allocate, free, allocate failure",
                    shown(other)
                ));
            }
        }
        Ok(())
    }
}

/// The fields of a line, without spaces and quotes around them.
fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b',').map(|field| {
        let field = field.trim_ascii();
        field
            .strip_prefix(b"\"")
            .and_then(|field| field.strip_suffix(b"\""))
            .map_or(field, <[u8]>::trim_ascii)
    })
}

/// A decimal number, or a hexadecimal one behind `0x`.
fn number(text: &[u8]) -> Option<u64> {
    if text.starts_with(b"0x") { hexadecimal(text) } else { digits(text, 10) }
}

fn hexadecimal(text: &[u8]) -> Option<u64> {
    digits(text.strip_prefix(b"0x")?, 16)
}

fn digits(text: &[u8], base: u32) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, &byte| {
        let digit = char::from(byte).to_digit(base)?;
        value.checked_mul(u64::from(base))?.checked_add(u64::from(digit))
    })
}

/// The start of a value from the file, fit to print.
fn shown(value: &[u8]) -> String {
    const SHOWN_BYTES: usize = 60;
    let cut = &value[..value.len().min(SHOWN_BYTES)];
    let dots = if cut.len() < value.len() { "..." } else { "" };
    format!("{}{dots}", cut.trim_ascii().escape_ascii())
}
