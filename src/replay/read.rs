//! Opening a trace file: which format it is shows in its first bytes, not in its name.

use std::fs::File;
use std::io::{BufReader, Error as IoError, ErrorKind, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::trace::{Builder, Trace};
use super::{rmm_csv, snapshot};
use crate::base::{Error, FileError, GIB, MIB, Result, format_bytes};

/// The most a compressed file may expand to, however large it is.
const EXPANDED_BYTES_MAX: u64 = 4 * GIB;
/// What any compressed file may expand to.
const EXPANDED_BYTES_FREE: u64 = 64 * MIB;
/// How often its own length a compressed file may expand to beyond that. Logs reach 10 to 30.
const EXPANSION_MAX: u64 = 256;
/// The most that is read of a snapshot, which is held in memory whole.
const SNAPSHOT_BYTES_MAX: u64 = 4 * GIB;

const BUFFER_BYTES: usize = 256 << 10;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// What every pickle of protocol 2 and later begins with.
const PICKLE_MAGIC: u8 = 0x80;

/// Reads a trace: RMM's CSV log or a PyTorch memory snapshot (pickle or JSON), plain or gzip.
/// A snapshot gives a trace for each device with events, or for `device` alone.
///
/// # Errors
/// A file that cannot be read, or holds no trace, with the place and the value in it.
pub fn read(path: &Path, device: Option<usize>) -> Result<Vec<Trace>> {
    let failed = |reason: String| Error::File(FileError::new(path, reason));
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let about = file.metadata().map_err(|error| failed(error.to_string()))?;
    if about.is_dir() {
        return Err(failed("it is a directory; name the trace files in it".into()));
    }
    let mut plain = BufReader::with_capacity(BUFFER_BYTES, file);
    let magic = peek(&mut plain).map_err(failed)?;
    if magic.starts_with(&GZIP_MAGIC) {
        let most = about.len().saturating_mul(EXPANSION_MAX);
        let left = most.clamp(EXPANDED_BYTES_FREE, EXPANDED_BYTES_MAX);
        let expanded = Bounded { inner: MultiGzDecoder::new(plain), left, limit: left };
        parse(path, BufReader::with_capacity(BUFFER_BYTES, expanded), device)
    } else {
        parse(path, plain, device)
    }
}

/// The first bytes, which stay unread.
fn peek(input: &mut impl std::io::BufRead) -> Result<Vec<u8>, String> {
    let bytes = input.fill_buf().map_err(|error| error.to_string())?;
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    Ok(bytes[..bytes.len().min(GZIP_MAGIC.len())].to_vec())
}

fn parse(
    path: &Path,
    mut input: BufReader<impl Read>,
    device: Option<usize>,
) -> Result<Vec<Trace>> {
    let failed = |reason: String| Error::File(FileError::new(path, reason));
    let name = trace_name(path);
    let first = peek(&mut input).map_err(failed)?[0];
    match first {
        PICKLE_MAGIC => {
            let bytes = whole(input).map_err(failed)?;
            snapshot::read_pickle(&bytes, &name, device).map_err(|(offset, reason)| {
                Error::File(FileError { path: path.into(), offset, reason })
            })
        }
        b'{' => {
            let bytes = whole(input).map_err(failed)?;
            snapshot::read_json(&bytes, &name, device).map_err(failed)
        }
        _ => {
            if let Some(device) = device.filter(|&device| device > 0) {
                return Err(failed(format!("a CSV log has device 0 only, not {device}")));
            }
            let mut builder = Builder::default();
            rmm_csv::read(input, &mut builder).map_err(failed)?;
            builder
                .finish(&name)
                .map(|trace| vec![trace])
                .ok_or_else(|| failed("it allocates nothing".into()))
        }
    }
}

fn whole(input: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    input
        .take(SNAPSHOT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > SNAPSHOT_BYTES_MAX {
        let limit = format_bytes(SNAPSHOT_BYTES_MAX);
        return Err(format!("snapshots of more than {limit} are not read"));
    }
    Ok(bytes)
}

/// The file's name without its endings.
fn trace_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let ends = [".csv", ".pickle", ".pkl", ".json"];
    ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_string()
}

/// Lets so many bytes through and then fails.
struct Bounded<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(got as u64).ok_or_else(|| {
            let limit = format_bytes(self.limit);
            let text = format!("it expands to more than {limit}, the most for a file of its size");
            IoError::new(ErrorKind::InvalidData, text)
        })?;
        Ok(got)
    }
}
