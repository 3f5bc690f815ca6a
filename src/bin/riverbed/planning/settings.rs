//! From `--mode`, `--config` and the switches to what the planner is held to.

use riverbed::modes::{
    Card, Mode, OffloadSettings, Preset, VramLimit, is_sdxl, settings_from_file,
};
use riverbed::offload::Backing;

use super::{PlanningArgs, Target, Vram};
use crate::Failure;

/// What was asked for, by file and by options; options go over the file.
pub(crate) fn of(args: &PlanningArgs) -> Result<OffloadSettings, Failure> {
    let mut settings = match &args.config {
        Some(path) => settings_from_file(path)?,
        None => OffloadSettings::of(None, Mode::auto()),
    };
    if let Some(mode) = &args.mode {
        settings.mode = Mode::parse(mode)?;
    }
    settings.split |= args.split;
    settings.single_buffer |= args.single_buffer;
    settings.working_bytes = args.working_mem.or(settings.working_bytes);
    settings.pinned_bytes = args.pinned.or(settings.pinned_bytes);
    Ok(settings)
}

/// The settings once it is known what the models are.
pub(crate) fn for_models(settings: OffloadSettings, backings: &[Backing]) -> OffloadSettings {
    let is_sdxl = backings.iter().any(|backing| match backing {
        Backing::Model { model, .. } => is_sdxl(model),
        Backing::Shape => false,
    });
    settings.for_model(is_sdxl)
}

/// The card that fractions are of: the device, or one as large as the limit.
pub(crate) fn card(args: &PlanningArgs, target: &Target) -> Card {
    match (target.memory, args.vram) {
        (Some(memory), _) => {
            Card { total_bytes: memory.total_bytes, free_bytes: memory.free_bytes }
        }
        (None, Some(Vram::Bytes(bytes))) => Card::of(bytes),
        (None, _) => Card::of(0),
    }
}

/// Rules and budgets of a mode on this card. A limit that was given goes over the mode's.
pub(super) fn preset(args: &PlanningArgs, settings: &OffloadSettings, card: &Card) -> Preset {
    let mut preset = settings.preset(card);
    match args.vram {
        Some(Vram::Bytes(bytes)) => preset.limit = VramLimit::Bytes(bytes),
        Some(Vram::Auto) => preset.limit = VramLimit::Measured,
        None => {}
    }
    preset
}
