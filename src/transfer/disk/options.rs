//! How files are to be read, as a user says it, and what came of it.

use std::fmt;
use std::str::FromStr;

use crate::base::{Error, KIB, MIB, format_bytes, parse_bytes};

/// Who carries the reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DiskBackend {
    /// `io_uring` where the system gives one and a trial read works, else `threads`.
    #[default]
    Auto,
    /// The kernel's ring: many reads under way from a few threads (Linux 5.6 or later).
    IoUring,
    /// Positioned reads, each on a thread that waits for it.
    Threads,
}

impl DiskBackend {
    const NAMES: &[(&str, Self)] =
        &[("auto", Self::Auto), ("io_uring", Self::IoUring), ("threads", Self::Threads)];
}

/// Whether reads go past the page cache (`O_DIRECT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DirectReads {
    /// Where the file allows them, except for what the page cache already has.
    #[default]
    Auto,
    /// Always; a file that does not allow them is refused.
    On,
    /// Never. What is read from the disk is dropped from the page cache again.
    Off,
}

impl DirectReads {
    const NAMES: &[(&str, Self)] = &[("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];
}

/// How files are read. As text: settings separated by commas, each optional, as
/// `io_uring,direct=on,depth=16,read=1MiB`.
///
/// ```
/// use riverbed::transfer::{DirectReads, DiskBackend, DiskOptions};
/// let options: DiskOptions = "threads,direct=off,depth=4".parse()?;
/// assert_eq!((options.backend, options.direct), (DiskBackend::Threads, DirectReads::Off));
/// assert_eq!(options.to_string(), "threads,direct=off,depth=4,read=1MiB");
/// # Ok::<(), riverbed::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskOptions {
    /// Who carries the reads.
    pub backend: DiskBackend,
    /// Whether they go past the page cache.
    pub direct: DirectReads,
    /// How many reads may be under way at once: 1 to 256.
    pub depth: usize,
    /// The longest single read, in bytes: 64 KiB to 16 MiB, a multiple of 4 KiB.
    pub read_bytes: u64,
}

impl Default for DiskOptions {
    /// Sixteen reads of 1 MiB: deep enough for one NVMe drive, and few enough to begin copying
    /// early.
    fn default() -> Self {
        Self { backend: DiskBackend::Auto, direct: DirectReads::Auto, depth: 16, read_bytes: MIB }
    }
}

impl DiskOptions {
    /// With another backend.
    #[must_use]
    pub fn backend(self, backend: DiskBackend) -> Self {
        Self { backend, ..self }
    }

    /// With direct reads or without.
    #[must_use]
    pub fn direct(self, direct: DirectReads) -> Self {
        Self { direct, ..self }
    }

    /// Refuses what is out of range.
    pub(in crate::transfer) fn check(&self) -> Result<(), Error> {
        if !(1..=256).contains(&self.depth) {
            return Err(Error::invalid("disk option depth", self.depth, "it is 1 to 256 reads"));
        }
        let read = self.read_bytes;
        if !(64 * KIB..=16 * MIB).contains(&read) || !read.is_multiple_of(4 * KIB) {
            let expected = "it is 64KiB to 16MiB, a multiple of 4KiB";
            return Err(Error::invalid("disk option read", format_bytes(read), expected));
        }
        Ok(())
    }
}

impl FromStr for DiskOptions {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut options = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) =
                part.split_once('=').map_or(("backend", part), |(k, v)| (k.trim(), v.trim()));
            match key {
                "backend" => options.backend = named("backend", value, DiskBackend::NAMES)?,
                "direct" => options.direct = named("direct", value, DirectReads::NAMES)?,
                "depth" => {
                    options.depth = value.parse().map_err(|_| {
                        Error::invalid("disk option depth", value, "it is 1 to 256 reads")
                    })?;
                }
                "read" => {
                    options.read_bytes = parse_bytes(value)
                        .map_err(|why| Error::invalid("disk option read", value, why))?;
                }
                _ => {
                    let expected = "the options are backend, direct, depth and read";
                    return Err(Error::invalid("disk option", key, expected));
                }
            }
        }
        options.check()?;
        Ok(options)
    }
}

/// The value called `value`.
fn named<T: Copy>(key: &str, value: &str, names: &[(&str, T)]) -> Result<T, Error> {
    names.iter().find(|(name, _)| *name == value).map(|&(_, found)| found).ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        let expected = format!("it is one of {}", names.join(", "));
        Error::invalid(format!("disk option {key}"), value, expected)
    })
}

/// The name of `value`.
fn name_of<T: PartialEq>(value: &T, names: &[(&'static str, T)]) -> &'static str {
    names.iter().find(|(_, named)| named == value).map_or("", |(name, _)| name)
}

impl fmt::Display for DiskBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(name_of(self, Self::NAMES))
    }
}

impl fmt::Display for DirectReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(name_of(self, Self::NAMES))
    }
}

impl fmt::Display for DiskOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, direct, depth, read_bytes } = self;
        let read = if read_bytes.is_multiple_of(MIB) {
            format!("{}MiB", read_bytes / MIB)
        } else {
            format!("{}KiB", read_bytes / KIB)
        };
        write!(f, "{backend},direct={direct},depth={depth},read={read}")
    }
}

/// How files are read in fact, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct DiskReport {
    /// Who carries the reads; never [`DiskBackend::Auto`].
    pub backend: DiskBackend,
    /// Whether reads of what is not cached go past the page cache, for every file.
    pub direct: bool,
    /// How many reads may be under way at once.
    pub depth: usize,
    /// Threads that read.
    pub threads: usize,
    /// What the probe found, for people.
    pub why: String,
}

impl fmt::Display for DiskReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, depth, threads, why, .. } = self;
        let direct = if self.direct { "direct" } else { "buffered" };
        write!(f, "{backend}, {direct}, {depth} deep, {threads} thread(s): {why}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_back() {
        for text in ["", "io_uring", "threads,direct=on", "direct=off,depth=1,read=64KiB"] {
            let options: DiskOptions = text.parse().unwrap();
            assert_eq!(options.to_string().parse::<DiskOptions>().unwrap(), options);
        }
        let options: DiskOptions = " backend = io_uring , depth=256,".parse().unwrap();
        assert_eq!((options.backend, options.depth), (DiskBackend::IoUring, 256));
    }

    #[test]
    fn a_wrong_setting_is_told_with_what_is_allowed() {
        for (text, words) in [
            ("aio", &["backend", "aio", "auto, io_uring, threads"][..]),
            ("direct=maybe", &["direct", "maybe", "auto, on, off"]),
            ("depth=0", &["depth", "'0'", "1 to 256"]),
            ("depth=many", &["depth", "many", "1 to 256"]),
            ("read=5000", &["read", "4.88 KiB", "64KiB to 16MiB", "4KiB"]),
            ("read=wide", &["read", "wide", "size"]),
            ("colour=red", &["colour", "backend, direct, depth and read"]),
        ] {
            let said = text.parse::<DiskOptions>().unwrap_err().to_string();
            assert!(words.iter().all(|word| said.contains(word)), "{text}: {said}");
        }
    }
}
