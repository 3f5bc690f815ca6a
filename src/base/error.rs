//! The one error type. Variants are what a caller can act on; texts name the option or call,
//! the value, what is allowed, and the way out. Clonable, so that one failed read can be
//! reported by every lease it poisons.

use std::fmt;
use std::path::PathBuf;

use super::size::format_bytes;

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, by what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request does not fit now. Freeing memory, or a higher limit, lets it succeed.
    #[error("{0}")]
    OutOfMemory(Box<OutOfMemory>),
    /// The request can never fit on this device under this limit, whatever is freed.
    #[error(
        "{what} needs {} and can never fit: {} is all there is; {way_out}",
        format_bytes(*.requested_bytes), format_bytes(*.available_bytes)
    )]
    TooLarge {
        /// What was asked for.
        what: String,
        /// Bytes asked for.
        requested_bytes: u64,
        /// The most that could ever be given.
        available_bytes: u64,
        /// What would work instead.
        way_out: String,
    },
    /// The pinned budget is spent.
    #[error(
        "pinned host memory: {} asked for, {} of the budget of {} in use; raise the budget or \
         free pinned blocks",
        format_bytes(*.requested_bytes), format_bytes(*.reserved_bytes), format_bytes(*.budget_bytes)
    )]
    PinnedBudget {
        /// Bytes asked for.
        requested_bytes: u64,
        /// Bytes the pool holds.
        reserved_bytes: u64,
        /// The hard cap.
        budget_bytes: u64,
    },
    /// The weight ring has no room because the caller's own live leases hold it. Waiting
    /// would wait for the caller itself.
    #[error(
        "the weight ring has no room for '{unit}' ({}): {} of its {} are held by {live_leases} \
         live lease(s) of the caller; drop a lease first, or make the ring larger",
        format_bytes(*.unit_bytes), format_bytes(*.held_bytes), format_bytes(*.ring_bytes)
    )]
    RingHeld {
        /// The unit asked for.
        unit: String,
        /// Its size.
        unit_bytes: u64,
        /// Ring bytes under live leases.
        held_bytes: u64,
        /// The ring's size.
        ring_bytes: u64,
        /// How many leases are alive.
        live_leases: usize,
    },
    /// A driver call failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The process already draws from a pool that is not to be displaced.
    #[error("{device}: the process draws from a pool {owner}, which is left alone; {way_out}")]
    PoolTaken {
        /// The device.
        device: String,
        /// Whose pool it is.
        owner: String,
        /// What would work instead.
        way_out: String,
    },
    /// The device, or this version, cannot do what was asked.
    #[error("{what} is not supported by {by}; {way_out}")]
    Unsupported {
        /// What was asked.
        what: String,
        /// Who cannot do it.
        by: String,
        /// What would work instead.
        way_out: String,
    },
    /// An argument outside its allowed range.
    #[error("{name}: '{value}' is not accepted; {expected}")]
    InvalidArgument {
        /// The argument's name.
        name: String,
        /// The value given.
        value: String,
        /// The allowed range.
        expected: String,
    },
    /// An alloc-conf string is wrong.
    #[error("conf key '{key}': {reason}")]
    Conf {
        /// The key, as written.
        key: String,
        /// Value, allowed range and, for a near miss, the key meant.
        reason: String,
    },
    /// A file is missing, unreadable, malformed, or changed while in use.
    #[error(transparent)]
    File(#[from] FileError),
    /// The work was cancelled by its owner.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// True when freeing memory could let the same call succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::OutOfMemory(_) | Self::PinnedBudget { .. } | Self::RingHeld { .. })
    }

    /// An [`Error::InvalidArgument`].
    pub fn invalid(
        name: impl Into<String>,
        value: impl fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self::InvalidArgument {
            name: name.into(),
            value: value.to_string(),
            expected: expected.into(),
        }
    }
}

/// A driver call that failed: which, with what status, where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{device}: {call} failed with status {status} ({text})")]
pub struct DeviceError {
    /// The device, as it was opened (`host`, `cuda:0`).
    pub device: String,
    /// The call in the driver contract (`alloc`, `copy_h2d`).
    pub call: &'static str,
    /// The driver's own number. The host device uses CUDA's: 1 invalid value, 2 out of
    /// memory, 400 invalid handle, 712 already registered, 801 not supported, 999 unknown (injected).
    pub status: u32,
    /// The status in words.
    pub text: String,
}

impl DeviceError {
    /// CUDA's and HIP's number for "invalid value".
    pub const INVALID_VALUE: u32 = 1;
    /// CUDA's and HIP's number for "out of memory".
    pub const OUT_OF_MEMORY: u32 = 2;
    /// CUDA's and HIP's number for "invalid resource handle".
    pub const INVALID_HANDLE: u32 = 400;
    /// CUDA's and HIP's number for "host memory already registered".
    pub const ALREADY_REGISTERED: u32 = 712;
    /// CUDA's and HIP's number for "not supported".
    pub const NOT_SUPPORTED: u32 = 801;
    /// CUDA's and HIP's number for "unknown error".
    pub const UNKNOWN: u32 = 999;

    /// True for the status that growth may answer by releasing cached memory.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        self.status == Self::OUT_OF_MEMORY
    }
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {reason}", path.display(), offset.map(|o| format!(", byte {o}")).unwrap_or_default())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// Offset of the trouble from the file's start, in bytes, where one is known.
    pub offset: Option<u64>,
    /// What is wrong, with the values involved.
    pub reason: String,
}

impl FileError {
    /// An error at no particular offset.
    pub fn new(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), offset: None, reason: reason.into() }
    }

    /// An error at `offset` bytes from the file's start.
    pub fn at(path: impl Into<PathBuf>, offset: u64, reason: impl Into<String>) -> Self {
        Self { path: path.into(), offset: Some(offset), reason: reason.into() }
    }
}

/// Why an allocation failed for now, with everything that was tried. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutOfMemory {
    /// The device asked.
    pub device: String,
    /// What the caller asked for.
    pub requested_bytes: u64,
    /// The segment that would have had to be made for it.
    pub segment_bytes: u64,
    /// The limit in force, if any.
    pub limit_bytes: Option<u64>,
    /// Held from the device.
    pub reserved_bytes: u64,
    /// Handed out.
    pub active_bytes: u64,
    /// Freed, but still in flight on some stream.
    pub retired_bytes: u64,
    /// The largest free block usable by the asking stream.
    pub largest_free_bytes: u64,
    /// What the driver says is free on the device.
    pub device_free_bytes: u64,
    /// Free in private pools, for their requests alone: a part of what is cached.
    pub private_free_bytes: u64,
    /// Handed out, by what the requests said of themselves, where they did.
    pub by_lifetime: Vec<(String, u64)>,
    /// What this request said of itself.
    pub label: Option<String>,
    /// What was tried, in order.
    pub tried: Vec<String>,
    /// A conf string under which it might have been served.
    pub hint: Option<String>,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: out of memory, {} asked for (a segment of {})",
            self.device,
            format_bytes(self.requested_bytes),
            format_bytes(self.segment_bytes),
        )?;
        if let Some(label) = &self.label {
            write!(f, " as {label}")?;
        }
        write!(f, ". Reserved {}", format_bytes(self.reserved_bytes))?;
        if let Some(limit) = self.limit_bytes {
            write!(f, " of a limit of {}", format_bytes(limit))?;
        }
        write!(f, ": active {}", format_bytes(self.active_bytes))?;
        if !self.by_lifetime.is_empty() {
            let known = self.by_lifetime.iter();
            let known: Vec<String> =
                known.map(|(name, bytes)| format!("{name} {}", format_bytes(*bytes))).collect();
            write!(f, " ({})", known.join(", "))?;
        }
        write!(
            f,
            ", retired {}, cached {} (largest free block {}",
            format_bytes(self.retired_bytes),
            format_bytes(self.cached_bytes()),
            format_bytes(self.largest_free_bytes),
        )?;
        if self.private_free_bytes > 0 {
            write!(f, "; {} in private pools", format_bytes(self.private_free_bytes))?;
        }
        write!(
            f,
            "). Device free {}. Tried: {}. {}",
            format_bytes(self.device_free_bytes),
            self.tried.join("; "),
            self.way_out(),
        )?;
        match &self.hint {
            Some(conf) => write!(f, "; or try the conf string '{conf}'"),
            None => Ok(()),
        }
    }
}

impl OutOfMemory {
    /// Held from the device and free, in bytes.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.reserved_bytes.saturating_sub(self.active_bytes + self.retired_bytes)
    }

    /// True when the free bytes the request may use would hold it, if they lay together.
    #[must_use]
    pub fn is_fragmented(&self) -> bool {
        self.cached_bytes().saturating_sub(self.private_free_bytes) >= self.requested_bytes
    }

    /// True when the device has room for the request and the limit has not.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.limit_bytes.is_some_and(|limit| {
            limit.saturating_sub(self.reserved_bytes) < self.segment_bytes
                && self.device_free_bytes >= self.segment_bytes
        })
    }

    fn way_out(&self) -> &'static str {
        if self.is_fragmented() {
            "The cached bytes would hold it but lie in pieces: free what shares their segments"
        } else if self.private_free_bytes >= self.requested_bytes {
            "Private pools have it free: trim them, or let them lend (use_on_oom)"
        } else if self.is_limited() {
            "The device has room, the limit does not: raise it or free memory"
        } else {
            "Free memory and ask again"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_memory_says_whether_limit_or_fragmentation_is_to_blame() {
        let limited = OutOfMemory {
            device: "host".into(),
            requested_bytes: 8 << 20,
            segment_bytes: 20 << 20,
            limit_bytes: Some(16 << 20),
            device_free_bytes: 1 << 30,
            tried: vec!["free blocks".into(), "growing".into()],
            ..OutOfMemory::default()
        };
        let text = limited.to_string();
        assert!(text.contains("raise it") && text.contains("free blocks; growing"), "{text}");
        let fragmented = OutOfMemory { reserved_bytes: 32 << 20, limit_bytes: None, ..limited };
        assert!(fragmented.to_string().contains("in pieces"));
    }

    #[test]
    fn file_errors_name_the_offset_only_when_known() {
        assert_eq!(
            FileError::at("m.gguf", 12, "bad magic").to_string(),
            "m.gguf, byte 12: bad magic"
        );
        assert_eq!(FileError::new("m.gguf", "gone").to_string(), "m.gguf: gone");
    }
}
