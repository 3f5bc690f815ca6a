//! Settings of a host device, as text: `host:vram=8GiB,h2d=12GB/s,copy_engines=2`.

use std::str::FromStr;

use crate::base::{Error, MIB, parse_bytes_per_second};
use crate::device::calls::Call;
use crate::device::settings;

/// Settings of a host device.
///
/// | setting | meaning | default |
/// |---|---|---|
/// | `vram=SIZE` | capacity, rounded down to 2 MiB pages | half of the machine's RAM |
/// | `h2d=RATE`, `d2h=RATE` | link rate of each direction (`12GB/s`) | as fast as memory copies |
/// | `copy_engines=N` | copies of one direction that run at once, 1 to 16 | 1 |
/// | `fail=CALL@N` | the N-th call of that name fails once (`fail=alloc@3`) | none |
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostSpec {
    /// Capacity in bytes; `None` takes half of the machine's RAM.
    pub vram_bytes: Option<u64>,
    /// Host-to-device rate in bytes a second; `None` is unlimited.
    pub h2d_bytes_per_second: Option<u64>,
    /// Device-to-host rate in bytes a second; `None` is unlimited.
    pub d2h_bytes_per_second: Option<u64>,
    /// Copies of one direction that run at once; 0 counts as 1.
    pub copy_engines: u32,
    /// Calls that fail: which, and the how many-th of its name.
    pub fail: Vec<(Call, u64)>,
}

/// The page size of the host device, as on most GPUs.
pub(super) const PAGE_BYTES: u64 = 2 * MIB;

const SETTINGS: &str =
    "settings are vram=8GiB, h2d=12GB/s, d2h=12GB/s, copy_engines=2 and fail=alloc@3";

impl FromStr for HostSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let rest = text.strip_prefix("host").unwrap_or(text);
        let list = match rest.strip_prefix(':') {
            Some(list) => list,
            None if rest.is_empty() => return Ok(Self::default()),
            None => return Err(Error::invalid("device", text, SETTINGS)),
        };
        let mut spec = Self::default();
        for setting in list.split(',') {
            let bad = |reason: String| Error::invalid("device setting", setting, reason);
            let (key, value) = setting.split_once('=').ok_or_else(|| bad(SETTINGS.to_string()))?;
            match key.trim() {
                "vram" => spec.vram_bytes = Some(settings::vram(value, PAGE_BYTES).map_err(bad)?),
                "h2d" => {
                    spec.h2d_bytes_per_second = Some(parse_bytes_per_second(value).map_err(bad)?);
                }
                "d2h" => {
                    spec.d2h_bytes_per_second = Some(parse_bytes_per_second(value).map_err(bad)?);
                }
                "copy_engines" => spec.copy_engines = settings::copy_engines(value).map_err(bad)?,
                "fail" => spec.fail.push(settings::fault(value).map_err(bad)?),
                _ => return Err(bad(SETTINGS.to_string())),
            }
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_settings_are_read() {
        let spec: HostSpec =
            "host:vram=8GiB,h2d=12GB/s,d2h=10GB/s,copy_engines=2,fail=alloc@3".parse().unwrap();
        assert_eq!(
            spec,
            HostSpec {
                vram_bytes: Some(8 << 30),
                h2d_bytes_per_second: Some(12_000_000_000),
                d2h_bytes_per_second: Some(10_000_000_000),
                copy_engines: 2,
                fail: vec![(Call::Alloc, 3)],
            }
        );
        assert_eq!("host".parse::<HostSpec>().unwrap(), HostSpec::default());
    }

    #[test]
    fn wrong_settings_are_named_with_what_is_allowed() {
        for (text, words) in [
            ("hostess", "settings are"),
            ("host:vram=1MiB", "at least one page"),
            ("host:vram", "settings are"),
            ("host:vram=lots", "not a size"),
            ("host:h2d=12GB", "not a rate"),
            ("host:copy_engines=0", "1 to 16"),
            ("host:fail=alloc", "CALL@N"),
            ("host:fail=fly@1", "copy_h2d"),
            ("host:colour=red", "settings are"),
            ("host:", "settings are"),
        ] {
            let error = text.parse::<HostSpec>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
