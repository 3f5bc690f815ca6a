//! DiffSynth's four states of a layer, each with a type and a place: `offload` while another
//! component is in use, `onload` while its own is, `preparing` where there is device memory to
//! spare, `computation` while it runs.

use crate::base::{Error, Result};
use crate::plan::Source;
use crate::weights::Dtype;

use super::limit::VramLimit;
use super::names::mode;
use super::presets::{Mode, ModeKind};

/// Where weights are in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In their file.
    Disk,
    /// In RAM.
    Ram,
    /// On the device.
    Device,
}

/// One state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// What weights are stored as; `None` as in the file.
    pub dtype: Option<Dtype>,
    /// Where they are.
    pub place: Place,
}

/// The four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct States {
    /// While another component is in use.
    pub offload: State,
    /// While their own component is in use.
    pub onload: State,
    /// Where device memory is to spare.
    pub preparing: State,
    /// While they are computed with; always on the device.
    pub computation: State,
}

impl States {
    /// The mode these states come to, under this limit.
    #[must_use]
    pub fn mode(&self, limit: VramLimit) -> Mode {
        let by_places = if self.offload.place == Place::Device {
            mode("none")
        } else if self.onload.place == Place::Device {
            mode("model")
        } else if self.preparing.place == Place::Device {
            mode("vram_limit").with_kind(ModeKind::Limit(limit))
        } else {
            mode("sequential")
        };
        let is_limit = matches!(by_places.kind(), ModeKind::Limit(_));
        if is_limit && self.source() == Source::Disk { mode("disk") } else { by_places }
    }

    /// Where weights come from in each pass: the disk if that is where they are while their
    /// component is in use, or before it comes onto the device whole.
    #[must_use]
    pub fn source(&self) -> Source {
        let from = if self.onload.place == Place::Device { self.offload } else { self.onload };
        if from.place == Place::Disk { Source::Disk } else { Source::Ram }
    }

    /// Whether weights stay in RAM while another component is in use.
    #[must_use]
    pub fn keeps_ram_copy(&self) -> bool {
        self.offload.place == Place::Ram
    }

    /// What weights of this type in the file are cast to, once, when they are loaded into RAM:
    /// the narrower type of the states that are in RAM, if it is narrower than the file's.
    #[must_use]
    pub fn cast_at_load(&self, file: Dtype) -> Option<Dtype> {
        let in_ram = [self.offload, self.onload].into_iter().filter(|s| s.place == Place::Ram);
        let narrowest = in_ram.filter_map(|state| state.dtype).min_by_key(|&dtype| width(dtype))?;
        (width(narrowest) < width(file)).then_some(narrowest)
    }

    /// What weights of this type in the file are cast to on arrival on the device, given what
    /// they are in RAM: `None` where they arrive as they are computed with.
    #[must_use]
    pub fn cast_on_arrival(&self, file: Dtype) -> Option<Dtype> {
        let stored = match self.source() {
            Source::Disk => file,
            Source::Ram => self.cast_at_load(file).unwrap_or(file),
        };
        let computed = self.computation.dtype.unwrap_or(stored);
        (computed != stored).then_some(computed)
    }

    /// Refuses states that nothing could run in.
    pub(super) fn checked(self) -> Result<Self> {
        if self.computation.place != Place::Device {
            let expected = "weights are computed with on the device: write cuda";
            return Err(Error::invalid("computation_device", shown(self.computation), expected));
        }
        if self.onload.place == Place::Disk && self.preparing.place == Place::Ram {
            let expected = "a state between disk and device that is in RAM is onload_device: cpu";
            return Err(Error::invalid("preparing_device", shown(self.preparing), expected));
        }
        Ok(self)
    }
}

fn shown(state: State) -> &'static str {
    match state.place {
        Place::Disk => "disk",
        Place::Ram => "cpu",
        Place::Device => "cuda",
    }
}

/// Bits of an element, quantised types by their blocks; for comparing.
fn width(dtype: Dtype) -> u64 {
    dtype.block_bytes() * 8 / dtype.block_elements()
}

/// Reads a place (`cpu`, `cuda`, `cuda:1`, `disk`).
pub(super) fn place(key: &str, text: &str) -> Result<Place> {
    let plain = text.trim().to_lowercase();
    match plain.split(':').next().unwrap_or_default() {
        "disk" | "meta" => Ok(Place::Disk),
        "cpu" | "ram" => Ok(Place::Ram),
        "cuda" | "gpu" | "hip" | "xpu" | "npu" | "mps" | "device" => Ok(Place::Device),
        _ => Err(Error::invalid(key, text, "places are cpu, cuda (or cuda:N) and disk")),
    }
}

/// Reads a type by torch's name (`torch.bfloat16`, `float8_e4m3fn`) or the file formats'
/// (`BF16`); `disk` stands for the file's own.
pub(super) fn dtype(key: &str, text: &str) -> Result<Option<Dtype>> {
    let plain = text.trim().to_lowercase();
    Ok(Some(match plain.strip_prefix("torch.").unwrap_or(&plain) {
        "disk" => return Ok(None),
        "float32" | "float" | "fp32" | "f32" => Dtype::F32,
        "float16" | "half" | "fp16" | "f16" => Dtype::F16,
        "bfloat16" | "bf16" => Dtype::BF16,
        "float8_e4m3fn" | "fp8" | "fp8_e4m3" | "f8_e4m3" => Dtype::F8_E4M3,
        "float8_e5m2" | "fp8_e5m2" | "f8_e5m2" => Dtype::F8_E5M2,
        _ => {
            let expected =
                "types are float32, float16, bfloat16, float8_e4m3fn, float8_e5m2 and disk";
            return Err(Error::invalid(key, text, expected));
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(places: [Place; 3], dtypes: [Option<Dtype>; 4]) -> States {
        let state = |at: usize, place| State { dtype: dtypes[at], place };
        States {
            offload: state(0, places[0]),
            onload: state(1, places[1]),
            preparing: state(2, places[2]),
            computation: state(3, Place::Device),
        }
    }

    #[test]
    fn places_choose_the_mode() {
        use Place::{Device, Disk, Ram};
        for (places, name, source) in [
            ([Device, Device, Device], "none", Source::Ram),
            ([Ram, Device, Device], "model", Source::Ram),
            ([Disk, Device, Device], "model", Source::Disk),
            ([Ram, Ram, Device], "vram_limit", Source::Ram),
            ([Disk, Ram, Device], "vram_limit", Source::Ram),
            ([Disk, Disk, Device], "disk", Source::Disk),
            ([Ram, Ram, Ram], "sequential", Source::Ram),
        ] {
            let states = states(places, [None; 4]);
            assert_eq!(states.mode(VramLimit::Measured).name(), name, "{places:?}");
            assert_eq!(states.source(), source, "{places:?}");
        }
    }

    #[test]
    fn a_narrower_state_is_cast_once_at_load_and_widened_on_arrival() {
        let (fp8, bf16) = (Some(Dtype::F8_E4M3), Some(Dtype::BF16));
        let ram = [Place::Ram, Place::Ram, Place::Device];
        let of_fp8 = states(ram, [fp8, fp8, fp8, bf16]);
        assert_eq!(of_fp8.cast_at_load(Dtype::BF16), fp8);
        assert_eq!(of_fp8.cast_on_arrival(Dtype::BF16), bf16);
        // Nothing narrower than the file: bytes go as they are, and are cast on arrival.
        assert_eq!(of_fp8.cast_at_load(Dtype::F8_E4M3), None);
        assert_eq!(of_fp8.cast_on_arrival(Dtype::F8_E4M3), bf16);
        let plain = states(ram, [bf16; 4]);
        assert_eq!(plain.cast_at_load(Dtype::BF16), None);
        assert_eq!(plain.cast_on_arrival(Dtype::BF16), None);
        assert_eq!(plain.cast_at_load(Dtype::F32), bf16);
    }

    #[test]
    fn disk_is_both_a_place_and_the_files_own_type() {
        assert_eq!(place("offload_device", "disk").ok(), Some(Place::Disk));
        assert_eq!(place("offload_device", "cuda:1").ok(), Some(Place::Device));
        assert_eq!(dtype("offload_dtype", "disk").ok(), Some(None));
        assert_eq!(dtype("x", "torch.float8_e4m3fn").ok(), Some(Some(Dtype::F8_E4M3)));
        assert!(place("offload_device", "tape").is_err() && dtype("x", "int7").is_err());
    }

    #[test]
    fn states_nothing_could_run_in_are_refused() {
        let mut bad = states([Place::Ram, Place::Ram, Place::Device], [None; 4]);
        bad.computation.place = Place::Disk;
        assert!(bad.checked().unwrap_err().to_string().contains("computation_device"));
    }
}
