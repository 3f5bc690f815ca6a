//! Settings of a simulated device, as text: `sim:h100,vram=70GiB,vmm=off`.

use std::path::Path;
use std::str::FromStr;

use super::profile::{DEFAULT, Profile};
use crate::base::{Error, parse_bytes, parse_bytes_per_second};
use crate::device::calls::Call;
use crate::device::settings;

/// Settings of a simulated device. The first one may be a card (`sim:rtx4090`) or a capacity
/// (`sim:80GiB`).
///
/// | setting | meaning | default |
/// |---|---|---|
/// | `vram=SIZE` | capacity, rounded down to pages | the card's |
/// | `profile=FILE` | a card of one's own, as JSON, instead of a built-in one | `a100-80g` |
/// | `h2d=RATE`, `d2h=RATE` | link rate of each direction (`12GB/s`) | the card's |
/// | `copy_engines=N` | copies of one direction that run at once, 1 to 16 | the card's |
/// | `vmm=off` | no virtual memory, as on cards and drivers without it | `on` |
/// | `pools=off` | no stream-ordered pools | `on` |
/// | `pool_caps=off` | pools that cannot be capped, as with drivers before CUDA 12.2 | `on` |
/// | `fail=CALL@N` | the N-th call of that name fails once (`fail=alloc@3`) | none |
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SimSpec {
    /// The card, with capacity, rates and engines as set.
    pub profile: Profile,
    /// Whether `reserve`, `create_page`, `map` and `unmap` work.
    pub virtual_memory: bool,
    /// Whether the calls of stream-ordered pools work.
    pub memory_pools: bool,
    /// Whether a pool keeps to a cap.
    pub pool_caps: bool,
    /// Calls that fail: which, and the how many-th of its name.
    pub fail: Vec<(Call, u64)>,
}

impl SimSpec {
    /// A device of this card, with nothing set otherwise.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self {
            profile,
            virtual_memory: true,
            memory_pools: true,
            pool_caps: true,
            fail: Vec::new(),
        }
    }
}

fn accepted() -> String {
    let cards: Vec<_> = Profile::names().collect();
    format!(
        "write a card ({}) or a capacity (80GiB) first; settings are vram=70GiB, \
         profile=FILE.json, h2d=25GB/s, d2h=25GB/s, copy_engines=2, vmm=off, pools=off, \
         pool_caps=off and fail=alloc@3",
        cards.join(", ")
    )
}

impl FromStr for SimSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let rest = text.strip_prefix("sim").unwrap_or(text);
        let list = match rest.strip_prefix(':') {
            Some(list) => list,
            None if rest.is_empty() => return Ok(Self::new(Profile::built_in(DEFAULT)?)),
            None => return Err(Error::invalid("device", text, accepted())),
        };
        let mut items: Vec<&str> = list.split(',').map(str::trim).collect();
        let first = items[0];
        let mut capacity = None;
        let mut card = None;
        if !first.contains('=') {
            items.remove(0);
            if first.starts_with(|c: char| c.is_ascii_digit()) {
                capacity = Some(first);
            } else {
                card = Some(first);
            }
        }
        let file = items.iter().find_map(|item| item.strip_prefix("profile="));
        let profile = match (card, file) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("device", text, "name a card or a profile, not both"));
            }
            (Some(card), None) => {
                Profile::built_in(card).map_err(|_| Error::invalid("device", text, accepted()))?
            }
            (None, Some(file)) => Profile::read(Path::new(file))?,
            (None, None) => Profile::built_in(DEFAULT)?,
        };
        let mut spec = Self::new(profile);
        if let Some(capacity) = capacity {
            let bad = |reason| Error::invalid("device", text, reason);
            spec.set_capacity(capacity).map_err(bad)?;
        }
        for item in items {
            spec.set(item).map_err(|reason| Error::invalid("device setting", item, reason))?;
        }
        Ok(spec)
    }
}

impl SimSpec {
    fn set(&mut self, item: &str) -> Result<(), String> {
        let (key, value) = item.split_once('=').ok_or_else(accepted)?;
        let rate = |value| parse_bytes_per_second(value).map(|rate| rate as f64 / 1e9);
        match key.trim() {
            "vram" => self.set_capacity(value)?,
            // Read before the others.
            "profile" => {}
            "h2d" => self.profile.h2d_gb_per_s.value = rate(value)?,
            "d2h" => self.profile.d2h_gb_per_s.value = rate(value)?,
            "copy_engines" => {
                self.profile.copy_engines.value = settings::copy_engines(value)?;
            }
            "vmm" => self.virtual_memory = settings::switch(key, value)?,
            "pools" => self.memory_pools = settings::switch(key, value)?,
            "pool_caps" => self.pool_caps = settings::switch(key, value)?,
            "fail" => self.fail.push(settings::fault(value)?),
            _ => return Err(accepted()),
        }
        Ok(())
    }

    fn set_capacity(&mut self, value: &str) -> Result<(), String> {
        parse_bytes(value)?;
        let page_bytes = self.profile.granularity_bytes.value;
        self.profile.capacity_bytes.value = settings::vram(value, page_bytes)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_settings_are_read() {
        let spec: SimSpec =
            "sim:h100,vram=70GiB,h2d=12GB/s,d2h=10GB/s,copy_engines=3,vmm=off,fail=alloc@3"
                .parse()
                .unwrap();
        assert_eq!(spec.profile.capacity_bytes.value, 70 << 30);
        assert_eq!(spec.profile.h2d_gb_per_s.value, 12.0);
        assert_eq!(spec.profile.d2h_gb_per_s.value, 10.0);
        assert_eq!(spec.profile.copy_engines.value, 3);
        assert!(!spec.virtual_memory);
        assert_eq!(spec.fail, [(Call::Alloc, 3)]);
        assert_eq!("sim:80GiB".parse::<SimSpec>().unwrap().profile.capacity_bytes.value, 80 << 30);
        let plain = "sim".parse::<SimSpec>().unwrap().profile;
        assert_eq!(plain, Profile::built_in(DEFAULT).unwrap());
        assert_eq!("sim:vmm=on".parse::<SimSpec>().unwrap().profile, plain);
    }

    #[test]
    fn wrong_settings_are_named_with_what_is_allowed() {
        for (text, words) in [
            ("simple", "rtx4090"),
            ("sim:", "rtx4090"),
            ("sim:rtx9999", "a100-80g, h100-80g"),
            ("sim:12parsecs", "not a size"),
            ("sim:1MiB", "at least one page"),
            ("sim:h100,80GiB", "settings are"),
            ("sim:h100,vram=0", "at least one page"),
            ("sim:h100,profile=x.json", "not both"),
            ("sim:profile=no/such/file.json", "no/such/file.json"),
            ("sim:h2d=0B/s", "above 0"),
            ("sim:vmm=maybe", "on or off"),
            ("sim:fail=fly@1", "copy_h2d"),
            ("sim:colour=red", "settings are"),
        ] {
            let error = text.parse::<SimSpec>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
