//! SD.Next's settings (`config.json`), with its two flags as keys.

use crate::base::{Error, Result};
use crate::weights::Dtype;

use super::super::Moves;
use super::super::names::mode;
use super::super::presets::{Group, Mode, ModeKind};
use super::super::settings::{OffloadSettings, RamLimit};
use super::super::states;
use super::super::system::System;
use super::super::watermarks::Watermarks;
use super::keys::Keys;

/// Keys that make a file SD.Next's.
pub(super) const KEYS: &[&str] = &[
    "accelerate_offload_path",
    "diffusers_move_base",
    "diffusers_move_refiner",
    "diffusers_move_unet",
    "diffusers_offload_always",
    "diffusers_offload_max_cpu_memory",
    MAX,
    MIN,
    "diffusers_offload_mode",
    "diffusers_offload_never",
    "diffusers_offload_nonblocking",
    "diffusers_offload_pre",
    "diffusers_offload_streams",
    "group_offload_blocks",
    "group_offload_record",
    "group_offload_stream",
    "group_offload_type",
    "layerwise_quantization",
    "models_not_to_offload",
    "torch_expandable_segments",
    "torch_gc_threshold",
    "torch_malloc",
];
const MIN: &str = "diffusers_offload_min_gpu_memory";
const MAX: &str = "diffusers_offload_max_gpu_memory";
/// The pair where one of the two is not given: what SD.Next resets to.
const LOW_DEFAULT: f64 = 0.2;
const HIGH_DEFAULT: f64 = 0.7;
/// GB of an older version; beyond is a slip of the pen.
const MARK_MAX: f64 = 10_000.0;
/// The most layers of one group.
const BLOCKS_MAX: f64 = 100_000.0;

/// Settings that need nothing here, with what is done anyway.
const REMARKS: &[(&str, &str)] = &[
    ("accelerate_offload_path", "not needed: weights are read from the model's own files"),
    ("diffusers_offload_nonblocking", "copies never make the host wait"),
    ("diffusers_offload_pre", "room is made before a component's phase, by the plan"),
    ("diffusers_offload_streams", "copies have streams of their own, and nothing is copied back"),
    ("group_offload_record", "memory waits for the streams that use it without being told"),
    ("caption_offload", "write the caption model into always_offload of the section riverbed"),
    ("nunchaku_offload", "quantised weights are streamed as other weights are"),
    ("stream_load", "weights are always read in parallel, into pinned memory"),
    ("runai_streamer_diffusers", "weights are always read in parallel, into pinned memory"),
    ("runai_streamer_transformers", "weights are always read in parallel, into pinned memory"),
];

pub(super) fn read(keys: &mut Keys) -> Result<OffloadSettings> {
    let mut warnings = Vec::new();
    let mode = offload_mode(keys, &mut warnings)?;
    let mut settings = OffloadSettings::of(Some(System::Sdnext), mode);
    settings.always_offload = keys.list("diffusers_offload_always")?;
    settings.never_offload = keys.list("diffusers_offload_never")?;
    if let Some(more) = keys.list("models_not_to_offload")? {
        settings.never_offload.get_or_insert_default().extend(more);
    }
    settings.moves = moves(keys, &settings.mode, &mut warnings)?;
    let fraction = keys.number("diffusers_offload_max_cpu_memory", 0.0, 1.0)?;
    settings.ram = fraction.map_or(RamLimit::Unlimited, RamLimit::Fraction);
    settings.storage_dtype = layerwise(keys, &mut warnings)?;
    settings.alloc_conf = alloc_conf(keys)?;
    settings.conf()?;
    keys.remarks(REMARKS, &mut warnings);
    settings.warnings = warnings;
    Ok(settings)
}

/// The mode: the flags go over the setting, as they do in SD.Next.
fn offload_mode(keys: &mut Keys, warnings: &mut Vec<String>) -> Result<Mode> {
    const KEY: &str = "diffusers_offload_mode";
    let low_vram = keys.truth("lowvram")?.unwrap_or(false);
    let medium_vram = keys.truth("medvram")?.unwrap_or(false);
    if low_vram && medium_vram {
        let expected = "one streams everything, the other keeps what fits: keep one of the two";
        return Err(Error::invalid("lowvram, medvram", "both", expected));
    }
    let said = keys.text(KEY)?;
    let marks = watermarks(keys, medium_vram, warnings)?;
    let group = group(keys)?;
    let (flag, by_flag) = match (low_vram, medium_vram) {
        (true, _) => ("lowvram", Some(mode("sdnext:lowvram"))),
        (_, true) => {
            let kind = marks.map_or(ModeKind::BalancedFromZero, |m| ModeKind::Balanced(Some(m)));
            ("medvram", Some(mode("sdnext:medvram").with_kind(kind)))
        }
        _ => ("", None),
    };
    let by_setting = match said.as_deref().map(|word| word.trim().to_lowercase()).as_deref() {
        Some("balanced") | None => mode("balanced").with_kind(ModeKind::Balanced(marks)),
        Some("group") => mode("group").with_kind(ModeKind::Group(group)),
        Some(name @ ("none" | "model" | "sequential")) => mode(name),
        Some(other) => {
            let expected = "modes are none, balanced, group, model and sequential";
            return Err(Error::invalid(KEY, other, expected));
        }
    };
    match by_flag {
        Some(by_flag) => {
            if let Some(said) = said {
                warnings.push(format!("{KEY}: {flag} goes over '{said}'"));
            }
            Ok(by_flag)
        }
        None => Ok(by_setting),
    }
}

/// The pair of watermarks, where one of them is given; `medvram` puts the low one to 0.
fn watermarks(
    keys: &mut Keys,
    medium_vram: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<Watermarks>> {
    let low = keys.number(MIN, 0.0, MARK_MAX)?;
    let high = keys.number(MAX, 0.0, MARK_MAX)?;
    let low = if medium_vram { low.map(|_| 0.0) } else { low };
    let default = if medium_vram { 0.0 } else { LOW_DEFAULT };
    if low.is_none() && high.is_none() {
        return Ok(None);
    }
    let (low, high) = (low.unwrap_or(default), high.unwrap_or(HIGH_DEFAULT));
    Ok(Some(Watermarks::of_sdnext(low, high, warnings)))
}

/// Group offload, with SD.Next's defaults: leaves, no stream, one block.
fn group(keys: &mut Keys) -> Result<Group> {
    const KEY: &str = "group_offload_type";
    let kind = keys.text(KEY)?;
    let blocks = keys.number("group_offload_blocks", 1.0, BLOCKS_MAX)?.unwrap_or(1.0);
    let blocks = match kind.as_deref() {
        None | Some("leaf_level") => None,
        Some("block_level") => Some(blocks as u32),
        Some(other) => {
            return Err(Error::invalid(KEY, other, "types are leaf_level and block_level"));
        }
    };
    Ok(Group { blocks, stream: keys.truth("group_offload_stream")?.unwrap_or(false) })
}

/// Moving by hand: off with a warning in the modes that move components themselves.
fn moves(keys: &mut Keys, mode: &Mode, warnings: &mut Vec<String>) -> Result<Moves> {
    let mut moves = Moves {
        base: keys.truth("diffusers_move_base")?.unwrap_or(false),
        unet: keys.truth("diffusers_move_unet")?.unwrap_or(false),
        refiner: keys.truth("diffusers_move_refiner")?.unwrap_or(false),
    };
    let name = mode.name();
    match mode.kind() {
        ModeKind::Components | ModeKind::Leaves if moves.any() => {
            warnings.push(format!("diffusers_move_*: off, mode {name} moves components itself"));
            moves = Moves::default();
        }
        ModeKind::Balanced(_) | ModeKind::BalancedFromZero if moves.refiner => {
            warnings.push(format!("diffusers_move_refiner: off, mode {name} moves it itself"));
            moves.refiner = false;
        }
        _ => {}
    }
    Ok(moves)
}

/// What `layerwise_quantization` stores weights as, for the kinds of model it lists.
fn layerwise(keys: &mut Keys, warnings: &mut Vec<String>) -> Result<Option<Dtype>> {
    const STORAGE: &str = "layerwise_quantization_storage";
    let kinds = keys.list("layerwise_quantization")?.unwrap_or_default();
    let storage = keys.text(STORAGE)?.unwrap_or_else(|| "float8_e4m3fn".into());
    keys.drop("layerwise_quantization_nonblocking");
    if kinds.is_empty() {
        return Ok(None);
    }
    if kinds.len() == 1 {
        warnings.push(format!(
            "layerwise_quantization: stored so are all components, not '{}' alone",
            kinds.join("")
        ));
    }
    states::dtype(STORAGE, &storage)
}

/// SD.Next's allocator settings as a conf string, where one of them is given.
fn alloc_conf(keys: &mut Keys) -> Result<Option<String>> {
    let backend = keys.text("torch_malloc")?;
    let expandable = keys.truth("torch_expandable_segments")?;
    let threshold = keys.number("torch_gc_threshold", 0.0, 100.0)?;
    let fraction = keys.number("cuda_mem_fraction", 0.0, 2.0)?;
    let mut words = Vec::new();
    match backend.as_deref() {
        None | Some("native") => {
            if let Some(percent) = threshold.filter(|percent| *percent > 0.0 && *percent < 100.0) {
                words.push(format!("garbage_collection_threshold:{}", percent / 100.0));
                words.push("max_split_size_mb:512".into());
            }
        }
        Some("cudaMallocAsync") => words.push("backend:cudaMallocAsync".into()),
        Some(other) => {
            let expected = "allocators are native and cudaMallocAsync";
            return Err(Error::invalid("torch_malloc", other, expected));
        }
    }
    if expandable == Some(true) {
        words.push("expandable_segments:True".into());
    }
    if let Some(fraction) = fraction.filter(|fraction| *fraction > 0.0 && *fraction < 1.0) {
        words.push(format!("per_process_memory_fraction:{fraction}"));
    }
    Ok((!words.is_empty()).then(|| words.join(",")))
}

#[cfg(test)]
mod tests {
    use super::super::read::ConfigFormat;
    use super::super::settings_from_text;
    use super::*;
    use crate::base::GIB;
    use crate::modes::{Card, Mark};
    use crate::plan::{Component, Granularity, Job, Keep};

    fn read(json: &str) -> OffloadSettings {
        settings_from_text(json, ConfigFormat::Json).unwrap()
    }

    fn refusal(json: &str) -> String {
        settings_from_text(json, ConfigFormat::Json).unwrap_err().to_string()
    }

    #[test]
    fn the_mode_is_selected_by_its_name_and_balanced_where_none_is() {
        for name in ["none", "balanced", "group", "model", "sequential"] {
            let json = format!(r#"{{"diffusers_offload_mode": "{name}"}}"#);
            assert_eq!(read(&json).mode.name(), name);
        }
        assert_eq!(read(r#"{"diffusers_offload_always": ""}"#).mode.name(), "balanced");
        assert!(refusal(r#"{"diffusers_offload_mode": "fast"}"#).contains("sequential"));
    }

    #[test]
    fn watermarks_are_fractions_and_old_gb_values_are_told_of() {
        let marks = |json| match read(json).mode.kind() {
            ModeKind::Balanced(Some(marks)) => marks,
            other => panic!("{other:?}"),
        };
        let json = r#"{"diffusers_offload_min_gpu_memory": 0.1,
                       "diffusers_offload_max_gpu_memory": 0.5}"#;
        assert_eq!(marks(json), Watermarks::of_fractions(0.1, 0.5));
        let old = r#"{"diffusers_offload_max_gpu_memory": 12}"#;
        assert_eq!(marks(old).high, Mark::Fraction(0.75));
        assert!(read(old).warnings[0].contains("GB of an older version"));
    }

    #[test]
    fn flags_go_over_the_setting() {
        let json = r#"{"diffusers_offload_mode": "model", "lowvram": true}"#;
        let settings = read(json);
        assert_eq!(settings.mode.name(), "sdnext:lowvram");
        assert!(settings.warnings[0].contains("lowvram goes over 'model'"));
        let json = r#"{"diffusers_offload_max_gpu_memory": 0.5, "medvram": true}"#;
        let expected = ModeKind::Balanced(Some(Watermarks::of_fractions(0.0, 0.5)));
        assert_eq!(read(json).mode.kind(), expected);
        let both = r#"{"diffusers_offload_pre": true, "lowvram": true, "medvram": true}"#;
        assert!(refusal(both).contains("keep one of the two"));
    }

    #[test]
    fn group_takes_type_blocks_and_stream_and_sd_nexts_defaults() {
        let json = r#"{"diffusers_offload_mode": "group", "group_offload_type": "block_level",
                       "group_offload_blocks": 4, "group_offload_stream": true}"#;
        let rules = read(json).preset(&Card::of(8 * GIB)).rules;
        assert_eq!((rules.granularity, rules.prefetch), (Granularity::Group(4), true));
        let rules = read(r#"{"diffusers_offload_mode": "group"}"#).preset(&Card::of(GIB)).rules;
        assert_eq!((rules.granularity, rules.prefetch), (Granularity::Leaf, false));
    }

    #[test]
    fn lists_given_go_over_those_of_the_card() {
        let mut job = Job::new("two");
        job.component(Component::new("t5", Vec::new()));
        job.component(Component::new("vae", Vec::new()));
        let keeps = |json: &str| {
            let mut job = job.clone();
            read(json).apply_to(&mut job, &Card::of(24 * GIB));
            job.components.iter().map(|component| component.keep).collect::<Vec<_>>()
        };
        let of_card = keeps(r#"{"diffusers_offload_mode": "balanced"}"#);
        assert_eq!(of_card, [Keep::Never, Keep::Always]);
        let json = r#"{"diffusers_offload_always": "AutoencoderKL", "models_not_to_offload": []}"#;
        assert_eq!(keeps(json), [Keep::Planned, Keep::Never]);
    }

    #[test]
    fn moves_by_hand_are_off_where_the_mode_moves_components_itself() {
        let json = |mode| {
            format!(
                r#"{{"diffusers_offload_mode": "{mode}", "diffusers_move_base": true,
                     "diffusers_move_refiner": true}}"#
            )
        };
        let settings = read(&json("none"));
        assert!(settings.moves.base && settings.moves.refiner && settings.warnings.is_empty());
        for mode in ["model", "sequential"] {
            let settings = read(&json(mode));
            assert!(!settings.moves.any() && settings.warnings.len() == 1, "{mode}");
        }
        let settings = read(&json("balanced"));
        assert!(settings.moves.base && !settings.moves.refiner);
    }

    #[test]
    fn settings_that_need_nothing_say_what_is_done_anyway() {
        let json = r#"{"diffusers_offload_pre": true, "diffusers_offload_streams": true,
                       "diffusers_offload_nonblocking": false,
                       "accelerate_offload_path": "cache/accelerate"}"#;
        let warnings = read(json).warnings;
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings.iter().any(|w| w.contains("the model's own files")));
    }

    #[test]
    fn ram_storage_and_allocator_are_set() {
        let json = r#"{"diffusers_offload_max_cpu_memory": 0.9,
                       "layerwise_quantization": ["Model", "TE"],
                       "torch_gc_threshold": 70, "cuda_mem_fraction": 0.5}"#;
        let settings = read(json);
        assert_eq!(settings.ram, RamLimit::Fraction(0.9));
        assert_eq!(settings.storage_dtype, Some(Dtype::F8_E4M3));
        let conf = settings.conf().unwrap();
        assert_eq!(conf.max_split_size_bytes, Some(512 << 20));
        assert_eq!(conf.device_limit_bytes(10 * GIB), Some(5 * GIB));
        let json = r#"{"torch_malloc": "cudaMallocAsync", "torch_gc_threshold": 70}"#;
        assert_eq!(read(json).conf().unwrap().policy(), "mempool");
    }
}
