//! [`Conf`]: the settings, and who set which. Everything that changes one ends in `settle`,
//! which is where the rules between keys live.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use crate::base::{Error, MIB, Result};

use super::explain::Source;
use super::mib::mib_text;
use super::policy::{self, Choice};
use super::suggest;
use super::table::{self, NOT_KEYS, OPTION_COUNT, Settings, find};
use super::tokens::{Raw, Reader, conf_error};

/// A valid set of options, which knows the ones that were set.
///
/// Values are read as fields (`conf.max_split_size_bytes`, see [`Settings`]) and changed by
/// [`set`](Self::set), [`merge`](Self::merge) and the `with_` setters. Printing gives the keys
/// that were set, in the order of the table, and reads back to an equal `Conf`. Two are equal
/// when their values are and the same keys are set, wherever they came from.
#[derive(Debug, Clone)]
pub struct Conf {
    settings: Settings,
    sources: [Source; OPTION_COUNT],
}

/// By hand, because arrays longer than 32 have no `Default`.
impl Default for Conf {
    fn default() -> Self {
        Self { settings: Settings::default(), sources: [Source::Default; OPTION_COUNT] }
    }
}

impl Deref for Conf {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl Conf {
    /// The name of the policy in force. An explicit `policy` decides; `expandable_segments:True`
    /// and `backend:cudaMallocAsync` otherwise choose `expandable` and `mempool`.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.settings.policy
    }

    /// True if `key`, or its alias, was set rather than left at its default or implied.
    #[must_use]
    pub fn is_set(&self, key: &str) -> bool {
        find(key).is_some_and(|index| self.sources[index].is_explicit())
    }

    /// Sets one key as a conf string would, in place of any earlier value.
    ///
    /// # Errors
    /// [`Error::Conf`] for an unknown key, a bad value, or one that contradicts a key already
    /// set; the conf is then unchanged.
    pub fn set(&mut self, key: &str, value: &str) -> Result<&mut Self> {
        let index = known(key)?;
        let raw = Reader::new(value).only_value(key)?;
        let mut changed = self.clone();
        changed.assign(index, key, &raw, Source::Code)?;
        *self = changed.settled()?;
        Ok(self)
    }

    /// With the policy of this name.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn with_policy(self, name: &str) -> Result<Self> {
        self.with("policy", name)
    }

    /// With this hard limit on device memory, in bytes.
    ///
    /// # Errors
    /// [`Error::Conf`] for 0.
    pub fn with_limit_bytes(self, bytes: u64) -> Result<Self> {
        self.with("limit_mb", &mib_text(bytes))
    }

    /// With this hard limit on pinned host memory, in bytes.
    ///
    /// # Errors
    /// [`Error::Conf`] for 0.
    pub fn with_pinned_limit_bytes(self, bytes: u64) -> Result<Self> {
        self.with("pinned_limit_mb", &mib_text(bytes))
    }

    /// With blocks of this size and larger never split, in bytes.
    ///
    /// # Errors
    /// [`Error::Conf`] if it is not a whole number of MiB, which is all the key can say, or
    /// below `large_segment_size_mb`.
    pub fn with_max_split_size_bytes(self, bytes: u64) -> Result<Self> {
        if !bytes.is_multiple_of(MIB) {
            return Err(conf_error(
                "max_split_size_mb",
                format!("{bytes} bytes are not a whole number of MiB; allowed: multiples of 2^20"),
            ));
        }
        self.with("max_split_size_mb", &mib_text(bytes))
    }

    /// Takes over every key that `other` sets. Keys that only `self` sets stay; none is reset.
    ///
    /// `policy`, `backend` and `expandable_segments` are one choice: where the two sides choose
    /// differently, `other`'s choice replaces the whole of `self`'s.
    ///
    /// # Errors
    /// [`Error::Conf`] if the result breaks a rule between two keys; `self` is then unchanged.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        let mut merged = self.clone();
        for (index, source) in other.sources.iter().enumerate() {
            if source.is_explicit() {
                merged.copy(index, &other.settings, *source);
            }
        }
        if merged.choice().resolve().is_err() {
            for index in policy::KEYS.iter().filter_map(|key| find(key)) {
                if !other.sources[index].is_explicit() {
                    merged.copy(index, &Settings::default(), Source::Default);
                }
            }
        }
        *self = merged.settled()?;
        Ok(())
    }

    /// The smaller of the two limits on a device of `total_bytes`, in bytes; `None` without any.
    #[must_use]
    pub fn device_limit_bytes(&self, total_bytes: u64) -> Option<u64> {
        let fraction = self.settings.per_process_memory_fraction;
        let by_fraction = (fraction < 1.0).then_some((fraction * total_bytes as f64) as u64);
        self.settings.limit_bytes.into_iter().chain(by_fraction).min()
    }

    /// Where the value of the option at `index` of the table came from.
    pub(super) fn source(&self, index: usize) -> Source {
        self.sources[index]
    }

    /// Reads a whole conf string whose keys are to be known as coming from `source`.
    pub(super) fn read(text: &str, source: Source) -> Result<Self> {
        let mut conf = Self::default();
        let mut reader = Reader::new(text);
        while let Some(key) = reader.key()? {
            let index = known(key)?;
            let raw = reader.value(key)?;
            if conf.sources[index].is_explicit() {
                let canonical = table::options()[index].key;
                return Err(conf_error(
                    key,
                    format!("'{canonical}' is set twice in one string; keep one of the two"),
                ));
            }
            conf.assign(index, key, &raw, source)?;
        }
        conf.settled()
    }

    fn with(mut self, key: &str, value: &str) -> Result<Self> {
        self.set(key, value)?;
        Ok(self)
    }

    fn assign(&mut self, index: usize, key: &str, raw: &Raw<'_>, source: Source) -> Result<()> {
        let spec = &table::options()[index];
        (spec.access.read)(&mut self.settings, raw)
            .map_err(|why| conf_error(key, format!("{why}; allowed: {}", spec.allowed())))?;
        self.sources[index] = source;
        Ok(())
    }

    fn copy(&mut self, index: usize, from: &Settings, source: Source) {
        (table::options()[index].access.copy)(from, &mut self.settings);
        self.sources[index] = source;
    }

    /// Derives what was not set from what was, then checks every range. Starting from the
    /// defaults makes the result depend on the keys set, not on the order in which they were.
    fn settled(mut self) -> Result<Self> {
        let defaults = Settings::default();
        for index in 0..OPTION_COUNT {
            if !self.sources[index].is_explicit() {
                self.copy(index, &defaults, Source::Default);
            }
        }
        self.settle_policy()?;
        let segment_bytes = self.settings.large_segment_size_bytes;
        self.imply("large_segment_size_mb", "max_non_split_rounding_mb", |settings| {
            settings.max_non_split_rounding_bytes = segment_bytes;
        });
        for spec in table::options() {
            (spec.access.check)(&self.settings).map_err(|why| {
                conf_error(spec.key, format!("{why}; allowed: {}", spec.allowed()))
            })?;
        }
        Ok(self)
    }

    /// Makes the three keys of the policy agree, so that whichever is read tells the truth.
    fn settle_policy(&mut self) -> Result<()> {
        let resolved = self.choice().resolve().map_err(|why| conf_error("policy", why))?;
        let Some((name, by)) = resolved.map(|(name, by)| (name.to_owned(), by)) else {
            return Ok(());
        };
        if name == policy::EXPANDABLE {
            self.imply(by, "expandable_segments", |settings| settings.expandable_segments = true);
        }
        if name == policy::MEMPOOL {
            self.imply(by, "backend", |settings| {
                settings.backend = policy::Backend::MallocAsync;
            });
        }
        self.imply(by, "policy", |settings| settings.policy = name);
        Ok(())
    }

    fn choice(&self) -> Choice<'_> {
        Choice {
            policy: self.is_set("policy").then_some(&self.settings.policy),
            backend: self.is_set("backend").then_some(self.settings.backend),
            expandable: self
                .is_set("expandable_segments")
                .then_some(self.settings.expandable_segments),
        }
    }

    /// Lets the explicit `cause` decide `key`, unless `key` is itself explicit.
    fn imply(&mut self, cause: &'static str, key: &str, apply: impl FnOnce(&mut Settings)) {
        let Some(index) = find(key) else { return };
        if self.is_set(cause) && !self.sources[index].is_explicit() {
            apply(&mut self.settings);
            self.sources[index] = Source::Implied(cause);
        }
    }
}

/// The place of `key` in the table, or an error with the key that was probably meant.
fn known(key: &str) -> Result<usize> {
    if let Some(index) = find(key) {
        return Ok(index);
    }
    if let Some((_, advice)) = NOT_KEYS.iter().find(|(name, _)| *name == key) {
        return Err(conf_error(key, *advice));
    }
    let names = table::options()
        .iter()
        .flat_map(|spec| std::iter::once(spec.key).chain(spec.aliases.iter().copied()));
    let way_out = suggest::nearest(key, names).map_or_else(
        || "the keys are listed in docs/conf.md".to_owned(),
        |name| format!("did you mean '{name}'?"),
    );
    Err(conf_error(key, format!("unknown key; {way_out}")))
}

impl FromStr for Conf {
    type Err = Error;

    /// Reads a conf string. A key may stand in it once.
    fn from_str(text: &str) -> Result<Self> {
        Self::read(text, Source::ConfString)
    }
}

impl fmt::Display for Conf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let explicit =
            table::options().iter().zip(&self.sources).filter(|(_, source)| source.is_explicit());
        for (position, (spec, _)) in explicit.enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{}:{}", spec.key, (spec.access.write)(&self.settings))?;
        }
        Ok(())
    }
}

impl PartialEq for Conf {
    fn eq(&self, other: &Self) -> bool {
        let explicit = |conf: &Self| conf.sources.map(|source| source.is_explicit());
        self.settings == other.settings && explicit(self) == explicit(other)
    }
}
