//! What a card is and what its driver's calls cost, as a JSON file in which every value names
//! its source.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::base::{Error, FileError, GIB, Result};
use crate::device::calls::Call;

/// A value and where it is from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sourced<T> {
    /// The value, in the unit its name says.
    pub value: T,
    /// A measurement with its card, a data sheet, or `guess:` and the reasoning.
    pub source: String,
}

/// The host's time in one driver call.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Microseconds of every call.
    pub base_us: f64,
    /// Microseconds more for each GiB the call is about.
    #[serde(default)]
    pub us_per_gib: f64,
    /// As [`Sourced::source`].
    pub source: String,
}

impl Cost {
    /// Nanoseconds of a call about `bytes` bytes.
    #[must_use]
    pub fn ns(&self, bytes: u64) -> u64 {
        let us = self.base_us + self.us_per_gib * (bytes as f64 / GIB as f64);
        // To the nearest: costs are not below 0.
        (us * 1e3 + 0.5) as u64
    }
}

/// A card.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Profile {
    /// What it is, for people.
    pub description: String,
    /// Device memory, in bytes.
    pub capacity_bytes: Sourced<u64>,
    /// Page size of device memory, in bytes.
    pub granularity_bytes: Sourced<u64>,
    /// Rate of device memory, in 10^9 bytes a second: kernels and copies on the device.
    pub memory_gb_per_s: Sourced<f64>,
    /// Rate from host to device, in 10^9 bytes a second.
    pub h2d_gb_per_s: Sourced<f64>,
    /// Rate from device to host, in 10^9 bytes a second.
    pub d2h_gb_per_s: Sourced<f64>,
    /// Copies of one direction that run at once.
    pub copy_engines: Sourced<u32>,
    /// Microseconds from issue to start of a copy or kernel on an idle stream.
    pub start_us: Sourced<f64>,
    /// What calls cost, by their name in the contract; calls left out cost what the built-in
    /// list says.
    #[serde(default)]
    pub costs: BTreeMap<String, Cost>,
}

const BUILT_IN: &[(&str, &str)] = &[
    ("a100-80g", include_str!("profiles/a100-80g.json")),
    ("h100-80g", include_str!("profiles/h100-80g.json")),
    ("rtx3060", include_str!("profiles/rtx3060.json")),
    ("rtx4090", include_str!("profiles/rtx4090.json")),
    ("rtx5090", include_str!("profiles/rtx5090.json")),
];

/// What calls cost where a profile does not say.
const COMMON_COSTS: &str = include_str!("profiles/common-costs.json");

/// The profile of a device that names none: where most of the costs were measured.
pub(super) const DEFAULT: &str = "a100-80g";

impl Profile {
    /// Names of the built-in profiles.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The built-in profile of that name; the size behind the dash may be left out.
    ///
    /// # Errors
    /// No such profile; the text lists those there are.
    pub fn built_in(name: &str) -> Result<Self> {
        let found = BUILT_IN
            .iter()
            .find(|(known, _)| *known == name || known.split('-').next() == Some(name));
        let Some((name, text)) = found else {
            let names: Vec<_> = Self::names().collect();
            return Err(Error::invalid(
                "simulated card",
                name,
                format!("cards are {}; or write profile=FILE.json", names.join(", ")),
            ));
        };
        Self::from_json(text).map_err(|reason| Error::invalid("built-in profile", name, reason))
    }

    /// Reads a profile from a file.
    ///
    /// # Errors
    /// A file that cannot be read; unknown, missing or impossible values, each named.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| FileError::new(path, format!("cannot be read: {error}")))?;
        Ok(Self::from_json(&text).map_err(|reason| FileError::new(path, reason))?)
    }

    /// Reads a profile from JSON text, and prices the calls it leaves out.
    ///
    /// # Errors
    /// A sentence that names what is wrong and what is allowed.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let mut profile: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let common: BTreeMap<String, Cost> =
            serde_json::from_str(COMMON_COSTS).map_err(|error| error.to_string())?;
        for (call, cost) in common {
            profile.costs.entry(call).or_insert(cost);
        }
        profile.check()?;
        Ok(profile)
    }

    /// What `call` costs.
    #[must_use]
    pub fn cost(&self, call: Call) -> Option<&Cost> {
        self.costs.get(call.name())
    }

    fn check(&self) -> Result<(), String> {
        let granularity = self.granularity_bytes.value;
        if !granularity.is_power_of_two() || !(4096..=GIB).contains(&granularity) {
            return Err(format!(
                "granularity_bytes: {granularity} is not a power of two from 4096 to {GIB}"
            ));
        }
        if self.capacity_bytes.value < granularity || self.capacity_bytes.value > 1 << 60 {
            return Err(format!(
                "capacity_bytes: {} is not between one page of {granularity} and 2^60",
                self.capacity_bytes.value
            ));
        }
        if !(1..=16).contains(&self.copy_engines.value) {
            return Err(format!("copy_engines: {} is not from 1 to 16", self.copy_engines.value));
        }
        for (name, rate) in [
            ("memory_gb_per_s", &self.memory_gb_per_s),
            ("h2d_gb_per_s", &self.h2d_gb_per_s),
            ("d2h_gb_per_s", &self.d2h_gb_per_s),
        ] {
            if !(0.001..=1e6).contains(&rate.value) {
                return Err(format!("{name}: {} is not from 0.001 to 1000000", rate.value));
            }
        }
        if !(0.0..=1e6).contains(&self.start_us.value) {
            return Err(format!("start_us: {} is not from 0 to 1000000", self.start_us.value));
        }
        for (name, cost) in &self.costs {
            if !Call::ALL.iter().any(|call| call.name() == name) {
                let names: Vec<_> = Call::ALL.iter().map(|call| call.name()).collect();
                return Err(format!("costs: no call '{name}'; calls are {}", names.join(", ")));
            }
            if !(0.0..=1e9).contains(&cost.base_us) || !(0.0..=1e9).contains(&cost.us_per_gib) {
                return Err(format!("costs: {name} is not from 0 to 1000000000 microseconds"));
            }
        }
        self.check_sources()
    }

    fn check_sources(&self) -> Result<(), String> {
        let mut sources = vec![
            ("capacity_bytes", &self.capacity_bytes.source),
            ("granularity_bytes", &self.granularity_bytes.source),
            ("memory_gb_per_s", &self.memory_gb_per_s.source),
            ("h2d_gb_per_s", &self.h2d_gb_per_s.source),
            ("d2h_gb_per_s", &self.d2h_gb_per_s.source),
            ("copy_engines", &self.copy_engines.source),
            ("start_us", &self.start_us.source),
        ];
        sources.extend(self.costs.iter().map(|(name, cost)| (name.as_str(), &cost.source)));
        match sources.into_iter().find(|(_, source)| source.trim().is_empty()) {
            Some((name, _)) => Err(format!("{name}: its source is empty; say where it is from")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(path: &[&str], value: serde_json::Value) -> Result<Profile, String> {
        let mut json: serde_json::Value = serde_json::from_str(BUILT_IN[0].1).unwrap();
        let (last, parents) = path.split_last().unwrap();
        let parent = parents.iter().fold(&mut json, |json, key| &mut json[*key]);
        parent[*last] = value;
        Profile::from_json(&json.to_string())
    }

    #[test]
    fn built_in_profiles_are_sound_and_price_every_call() {
        for name in Profile::names() {
            let profile = Profile::built_in(name).unwrap();
            for &call in Call::ALL {
                assert!(profile.cost(call).is_some(), "{name}: {call} has no price");
            }
        }
        assert_eq!(Profile::built_in("h100").unwrap(), Profile::built_in("h100-80g").unwrap());
        Profile::built_in(DEFAULT).unwrap();
    }

    #[test]
    fn growing_by_small_pages_costs_what_was_measured() {
        let profile = Profile::built_in("a100").unwrap();
        let cost = |call| profile.cost(call).unwrap().ns(2 << 20);
        assert!(cost(Call::CreatePage).abs_diff(193_000) < 500);
        assert!(cost(Call::SetAccess).abs_diff(36_000) < 500);
        assert_eq!(cost(Call::Map), 1450);
    }

    #[test]
    fn impossible_values_are_named() {
        for (path, value, words) in [
            (&["capacity_bytes", "value"][..], 1.into(), "capacity_bytes"),
            (&["granularity_bytes", "value"], 3_000_000.into(), "power of two"),
            (&["copy_engines", "value"], 0.into(), "1 to 16"),
            (&["h2d_gb_per_s", "value"], 0.into(), "h2d_gb_per_s"),
            (&["start_us", "value"], (-1).into(), "start_us"),
            (&["start_us", "source"], " ".into(), "source is empty"),
            (&["speed"], 1.into(), "unknown field `speed`"),
            (&["costs"], serde_json::json!({"fly": {"base_us": 1, "source": "x"}}), "set_access"),
            (&["costs"], serde_json::json!({"map": {"base_us": -1, "source": "x"}}), "map is not"),
            (&["costs"], serde_json::json!({"map": {"base_us": 1}}), "missing field `source`"),
        ] {
            let error = changed(path, value).unwrap_err();
            assert!(error.contains(words), "{path:?}: {error}");
        }
    }
}
