//! DiffSynth-Studio's `vram_limit` and its four states, as the arguments of its pipelines have
//! them: flat, or below `vram_config`. The limit is in GiB.

use crate::base::Result;

use super::super::limit::VramLimit;
use super::super::names::mode;
use super::super::presets::ModeKind;
use super::super::settings::OffloadSettings;
use super::super::states::{Place, State, States, dtype, place};
use super::super::system::System;
use super::keys::Keys;

/// Keys that make a file DiffSynth's.
pub(super) const KEYS: &[&str] = &[
    "computation_device",
    "computation_dtype",
    "offload_device",
    "offload_dtype",
    "onload_device",
    "onload_dtype",
    "preparing_device",
    "preparing_dtype",
    "vram_config",
    "vram_limit",
];
/// The keys of states among them.
const STATES: &[&str] = &[
    "computation_device",
    "computation_dtype",
    "offload_device",
    "offload_dtype",
    "onload_device",
    "onload_dtype",
    "preparing_device",
    "preparing_dtype",
];
/// GiB; beyond is a slip of the pen.
const LIMIT_MAX: f64 = 1e6;

pub(super) fn read(keys: &mut Keys) -> Result<OffloadSettings> {
    let limit = match keys.number("vram_limit", 0.0, LIMIT_MAX)? {
        Some(gib) => VramLimit::of_gib(gib),
        None => VramLimit::Measured,
    };
    let mut nested = keys.section("vram_config")?;
    let states = match &mut nested {
        Some(nested) => states(nested)?,
        None => states(keys)?,
    };
    let by_limit = mode("vram_limit").with_kind(ModeKind::Limit(limit));
    let mode = states.map_or(by_limit, |states| states.mode(limit));
    let mut settings = OffloadSettings::of(Some(System::Diffsynth), mode);
    settings.limit = Some(limit);
    if let Some(states) = states {
        settings.source = Some(states.source());
        settings.keep_ram_copy = states.keeps_ram_copy();
    }
    settings.states = states;
    if let Some(nested) = nested.filter(|nested| !nested.rest().is_empty()) {
        let names = super::listed(&nested.rest());
        settings.warnings.push(format!("vram_config: keys not known are ignored: {names}"));
    }
    Ok(settings)
}

/// The four states; `None` where none of their keys is there. What is missing of a state is as
/// in `computation`; what is missing there is the device, and the file's type.
fn states(keys: &mut Keys) -> Result<Option<States>> {
    if keys.present(STATES).is_empty() {
        return Ok(None);
    }
    let on_device = State { dtype: None, place: Place::Device };
    let computation = state(keys, "computation", on_device)?;
    let states = States {
        offload: state(keys, "offload", computation)?,
        onload: state(keys, "onload", computation)?,
        preparing: state(keys, "preparing", computation)?,
        computation,
    };
    states.checked().map(Some)
}

fn state(keys: &mut Keys, name: &str, missing: State) -> Result<State> {
    let mut state = missing;
    let key = format!("{name}_dtype");
    if let Some(text) = keys.text(&key)? {
        state.dtype = dtype(&key, &text)?;
        if text.trim().eq_ignore_ascii_case("disk") {
            state.place = Place::Disk;
        }
    }
    let key = format!("{name}_device");
    if let Some(text) = keys.text(&key)? {
        state.place = place(&key, &text)?;
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::super::read::ConfigFormat;
    use super::super::settings_from_text;
    use super::*;
    use crate::base::GIB;
    use crate::modes::Card;
    use crate::plan::{Retention, Source};
    use crate::weights::Dtype;

    fn read(json: &str) -> OffloadSettings {
        settings_from_text(json, ConfigFormat::Json).unwrap()
    }

    #[test]
    fn the_limit_is_in_gib_and_zero_is_the_smallest() {
        let card = Card::of(24 * GIB);
        let limit = |json| read(json).preset(&card).limit;
        assert_eq!(limit(r#"{"vram_limit": 15.5}"#), VramLimit::Bytes(31 * GIB / 2));
        let smallest = read(r#"{"vram_limit": 0}"#).preset(&card);
        assert_eq!(smallest.limit, VramLimit::Smallest);
        assert_eq!(smallest.rules.retention, Retention::None);
        assert_eq!(limit(r#"{"vram_limit": null}"#), VramLimit::Measured);
        assert!(settings_from_text(r#"{"vram_limit": -1}"#, ConfigFormat::Json).is_err());
    }

    #[test]
    fn states_with_places_and_types_make_the_mode() {
        let json = r#"{"vram_limit": 8, "vram_config": {
            "offload_dtype": "disk", "offload_device": "disk",
            "onload_dtype": "torch.float8_e4m3fn", "onload_device": "cpu",
            "preparing_dtype": "torch.float8_e4m3fn", "preparing_device": "cuda",
            "computation_dtype": "torch.bfloat16", "computation_device": "cuda"}}"#;
        let settings = read(json);
        assert_eq!(settings.mode.name(), "vram_limit");
        assert_eq!(settings.source, Some(Source::Ram));
        assert!(!settings.keep_ram_copy);
        let states = settings.states.unwrap();
        assert_eq!(states.cast_at_load(Dtype::BF16), Some(Dtype::F8_E4M3));
        assert_eq!(states.cast_on_arrival(Dtype::BF16), Some(Dtype::BF16));
    }

    #[test]
    fn disk_in_both_waiting_states_is_the_disk_mode() {
        let json = r#"{"offload_dtype": "disk", "onload_dtype": "disk",
                       "computation_dtype": "bfloat16", "vram_limit": 4}"#;
        let settings = read(json);
        assert_eq!(settings.mode.name(), "disk");
        let preset = settings.preset(&Card::of(24 * GIB));
        assert_eq!(preset.rules.source, Source::Disk);
        assert_eq!(preset.limit, VramLimit::Bytes(4 * GIB));
    }

    #[test]
    fn what_is_missing_is_as_in_computation() {
        let states = read(r#"{"offload_device": "cpu", "computation_dtype": "fp8"}"#).states;
        let fp8 = State { dtype: Some(Dtype::F8_E4M3), place: Place::Device };
        let states = states.unwrap();
        assert_eq!((states.onload, states.preparing), (fp8, fp8));
        assert_eq!(states.offload, State { place: Place::Ram, ..fp8 });
    }

    #[test]
    fn states_that_contradict_each_other_are_refused() {
        let json = r#"{"computation_device": "cpu"}"#;
        let error = settings_from_text(json, ConfigFormat::Json).unwrap_err().to_string();
        assert!(error.contains("computation_device"), "{error}");
    }
}
