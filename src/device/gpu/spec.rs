//! Settings of a GPU device, read from text.

use std::path::PathBuf;
use std::str::FromStr;

use crate::base::Error;
use crate::device::settings;

/// How a GPU is opened. As text: `cuda:0` or `hip:1`, then settings after commas:
/// `vmm=on|off` (virtual memory), `pools=on|off` (the driver's stream-ordered pools) and
/// `library=PATH` (the driver's file, where it is not found by itself). Without a number it is
/// device 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct GpuSpec {
    /// The device's number among those of its vendor, as the driver counts them.
    pub ordinal: u32,
    /// Whether virtual memory is used; `None` lets the backend decide.
    pub virtual_memory: Option<bool>,
    /// Whether the driver's pools are used; `None` lets the backend decide.
    pub memory_pools: Option<bool>,
    /// The driver library's file.
    pub library: Option<PathBuf>,
}

impl FromStr for GpuSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |expected: String| Error::invalid("device", text, expected);
        let (_, settings) = text.split_once(':').unwrap_or((text, ""));
        let mut spec = Self::default();
        let mut items = settings.split(',').map(str::trim);
        if let Some(first) = items.next().filter(|first| !first.is_empty())
            && let Err(reason) = spec.set_ordinal(first)
        {
            return Err(wrong(reason));
        }
        if text.ends_with(':') {
            return Err(wrong("a device's number follows the colon, as in cuda:0".into()));
        }
        for item in items {
            spec.set(item).map_err(wrong)?;
        }
        Ok(spec)
    }
}

impl GpuSpec {
    fn set_ordinal(&mut self, text: &str) -> Result<(), String> {
        if text.contains('=') {
            return self.set(text);
        }
        self.ordinal = text.parse().map_err(|_| {
            format!("'{text}' is no device number; devices are counted from 0, as in cuda:0")
        })?;
        Ok(())
    }

    fn set(&mut self, item: &str) -> Result<(), String> {
        let accepted = || "settings are vmm=on|off, pools=on|off, library=PATH".to_string();
        let (key, value) = item.split_once('=').ok_or_else(accepted)?;
        match key.trim() {
            "vmm" => self.virtual_memory = Some(settings::switch(key, value)?),
            "pools" => self.memory_pools = Some(settings::switch(key, value)?),
            "library" if value.is_empty() => return Err("library is the driver's file".into()),
            "library" => self.library = Some(value.into()),
            _ => return Err(accepted()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_settings_are_read() {
        let spec: GpuSpec = "hip:3,vmm=off,pools=on,library=/opt/x/libamdhip64.so".parse().unwrap();
        assert_eq!(spec.ordinal, 3);
        assert_eq!((spec.virtual_memory, spec.memory_pools), (Some(false), Some(true)));
        assert_eq!(spec.library, Some("/opt/x/libamdhip64.so".into()));
        assert_eq!("cuda".parse::<GpuSpec>().unwrap(), GpuSpec::default());
        assert_eq!("cuda:library=x.so".parse::<GpuSpec>().unwrap().ordinal, 0);
    }

    #[test]
    fn wrong_settings_are_named_with_what_is_allowed() {
        for (text, words) in [
            ("cuda:", "follows the colon"),
            ("cuda:first", "counted from 0"),
            ("cuda:-1", "counted from 0"),
            ("cuda:0,vmm=maybe", "on or off"),
            ("cuda:0,vram=8GiB", "settings are"),
            ("cuda:0,library=", "driver's file"),
            ("cuda:0,", "settings are"),
        ] {
            let error = text.parse::<GpuSpec>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
