//! What is in force and why: one report per option, for people and for JSON.

use std::fmt;

use serde::{Serialize, Serializer};

use super::policy::{self, EXPANDABLE, MEMPOOL};
use super::settings::Conf;
use super::spec::{HonouredBy, OptionSpec, Status};
use super::table;
use crate::base::{Error, Result};

/// Nothing ages under the expandable policy, and nothing is too large to be split. Segment sizes
/// are those of private pools that split nothing.
const UNREAD_BY_EXPANDABLE: [&str; 3] =
    ["garbage_collection_threshold", "max_split_size_mb", "max_non_split_rounding_mb"];

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Source {
    /// Nobody set it.
    #[default]
    Default,
    /// A string handed to the parser.
    ConfString,
    /// The environment variable of this name.
    Environment(&'static str),
    /// A setter called by the program.
    Code,
    /// Nobody set it, and the value follows from this other key.
    Implied(&'static str),
}

impl Source {
    /// True for keys that somebody set.
    pub(super) fn is_explicit(self) -> bool {
        !matches!(self, Self::Default | Self::Implied(_))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::ConfString => f.write_str("conf string"),
            Self::Environment(name) => f.write_str(name),
            Self::Code => f.write_str("code"),
            Self::Implied(key) => write!(f, "implied by {key}"),
        }
    }
}

/// As its text, which is what a reader of a report looks for.
impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One option with its value in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OptionReport {
    /// The key, as printed.
    pub key: &'static str,
    /// Other spellings that are read.
    pub aliases: &'static [&'static str],
    /// The value in force as a conf string writes it, or a word such as `unlimited`.
    pub value: String,
    /// Where it came from.
    pub source: Source,
    /// The value when nobody sets it.
    pub default: String,
    /// The kind of value.
    pub value_type: &'static str,
    /// The accepted values, in words.
    pub allowed: String,
    /// Who reads it.
    pub honoured_by: &'static [HonouredBy],
    /// Whether Riverbed acts on it today.
    pub status: Status,
    /// True when the policy in force, or the process pool where it is that one's report, does
    /// not read it, so that it has no effect.
    pub unread: bool,
    /// What it does.
    pub help: &'static str,
}

impl Conf {
    /// Every option with its value in force and where that came from, in printing order.
    ///
    /// ```
    /// let conf: riverbed::conf::Conf = "expandable_segments:True".parse()?;
    /// let policy = &conf.explain()[0];
    /// assert_eq!((policy.key, policy.value.as_str()), ("policy", "expandable"));
    /// assert_eq!(policy.source.to_string(), "implied by expandable_segments");
    /// # Ok::<(), riverbed::Error>(())
    /// ```
    #[must_use]
    pub fn explain(&self) -> Vec<OptionReport> {
        self.explain_as(|spec| self.reads(spec))
    }

    /// As [`explain`](Self::explain), for whoever `reads` some of the options.
    pub(super) fn explain_as(&self, reads: impl Fn(&OptionSpec) -> bool) -> Vec<OptionReport> {
        table::options()
            .iter()
            .enumerate()
            .map(|(index, spec)| OptionReport {
                key: spec.key,
                aliases: spec.aliases,
                value: (spec.access.write)(self),
                source: self.source(index),
                default: spec.default_text(),
                value_type: spec.value_type(),
                allowed: spec.allowed(),
                honoured_by: spec.honoured_by,
                status: spec.status,
                unread: !reads(spec),
                help: spec.help,
            })
            .collect()
    }

    /// The keys that are set and that the policy in force does not read.
    #[must_use]
    pub fn set_but_unread(&self) -> Vec<&'static str> {
        let unread =
            table::options().iter().filter(|spec| self.is_set(spec.key) && !self.reads(spec));
        unread.map(|spec| spec.key).collect()
    }

    /// Asked of the allocator, set to something else than the default, would be read, and nothing
    /// acts on them yet.
    fn unmet(&self) -> impl Iterator<Item = (&'static OptionSpec, &'static str)> {
        table::options().iter().filter_map(|spec| match spec.status {
            Status::NotYet(why) => {
                let asked = self.is_set(spec.key)
                    && self.reads(spec)
                    && spec.honoured_by.contains(&HonouredBy::Native)
                    && (spec.access.write)(self) != spec.default_text();
                asked.then_some((spec, why))
            }
            Status::Effective | Status::ByDesign(_) => None,
        })
    }

    /// Refuses what is asked of the allocator and could only be passed over.
    pub(crate) fn refuse_unmet(&self) -> Result<()> {
        match self.unmet().next() {
            None => Ok(()),
            Some((spec, why)) => Err(Error::Unsupported {
                what: format!("{}:{}", spec.key, (spec.access.write)(self)),
                by: "this version".into(),
                way_out: format!("leave the key out ({why})"),
            }),
        }
    }

    /// What places no blocks itself has no use for the options of placement; the keys that chose
    /// the policy have done their work.
    fn reads(&self, spec: &OptionSpec) -> bool {
        match self.policy() {
            MEMPOOL => {
                policy::KEYS.contains(&spec.key)
                    || spec.honoured_by.iter().any(|by| *by != HonouredBy::Native)
            }
            EXPANDABLE => !UNREAD_BY_EXPANDABLE.contains(&spec.key) && !is_of_driver_pools(spec),
            _ => !is_of_driver_pools(spec),
        }
    }
}

/// Options of the driver's pools alone.
fn is_of_driver_pools(spec: &OptionSpec) -> bool {
    let by = |reader| spec.honoured_by.contains(&reader);
    by(HonouredBy::Mempool) && !by(HonouredBy::Native)
}
