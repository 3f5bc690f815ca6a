//! What each system chooses, or advises, for a card of a given size.

use crate::base::GIB;

use super::names::mode;
use super::presets::Mode;
use super::watermarks::Watermarks;

/// A card's size in whole GiB, nearest: a card sold with 24 GB reports a little less.
fn whole_gib(card_bytes: u64) -> u64 {
    card_bytes.saturating_add(GIB / 2) / GIB
}

/// SD.Next's defaults for a card.
#[derive(Debug, Clone, PartialEq)]
pub struct SdnextCard {
    /// The mode it chooses.
    pub mode: Mode,
    /// The pair of watermarks.
    pub watermarks: Watermarks,
    /// Classes that leave the device after use.
    pub always: &'static [&'static str],
    /// Classes that stay on the device.
    pub never: &'static [&'static str],
}

/// The text encoders SD.Next always moves off.
const T5: &[&str] = &["T5EncoderModel", "UMT5EncoderModel"];
/// The small components SD.Next leaves on a large card.
const SMALL: &[&str] = &["CLIPTextModel", "CLIPTextModelWithProjection", "AutoencoderKL"];

/// SD.Next's table of defaults by card (`modules/ui_definitions.py`, July 2026). No card: none.
#[must_use]
pub fn sdnext_card(card_bytes: u64) -> SdnextCard {
    let (low, high, always, never): (_, _, &[_], &[_]) = match whole_gib(card_bytes) {
        0..=4 => (0.0, 0.6, &[], &[]),
        5..=12 => (0.0, 0.6, T5, &[]),
        13..24 => (0.2, 0.6, &[], &[]),
        24.. => (0.2, 0.8, T5, SMALL),
    };
    let mode = mode(if card_bytes == 0 { "none" } else { "balanced" });
    SdnextCard { mode, watermarks: Watermarks::of_fractions(low, high), always, never }
}

/// AUTOMATIC1111's advice by card: lowvram up to 4 GB, medvram below 8, medvram-sdxl at 8, and
/// nothing above.
#[must_use]
pub fn a1111_card(card_bytes: u64) -> Mode {
    mode(match whole_gib(card_bytes) {
        0..=4 => "a1111:lowvram",
        5..8 => "a1111:medvram",
        8 => "medvram-sdxl",
        9.. => "none",
    })
}

/// InvokeAI's "max safe" rule for the cap on weights: the card less the memory to work in, in
/// bytes.
#[must_use]
pub fn invoke_safe_cap(card_bytes: u64, working_bytes: u64) -> u64 {
    card_bytes.saturating_sub(working_bytes)
}

/// DiffSynth's advice: what the job takes whole if the card has it, else a cap half a GiB below
/// the card if RAM holds the weights, else disk.
#[must_use]
pub fn diffsynth_card(job_bytes: u64, card_bytes: u64, ram_bytes: u64) -> Mode {
    mode(if job_bytes <= card_bytes {
        "none"
    } else if job_bytes <= ram_bytes {
        "vram_limit"
    } else {
        "disk"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sdnext_chooses_by_its_table() {
        for (gib, low, high, always, never) in [
            (4, 0.0, 0.6, 0, 0),
            (8, 0.0, 0.6, 2, 0),
            (12, 0.0, 0.6, 2, 0),
            (16, 0.2, 0.6, 0, 0),
            (24, 0.2, 0.8, 2, 3),
        ] {
            // Cards report a little less than they are sold with.
            let card = sdnext_card(gib * GIB - GIB / 8);
            assert_eq!(card.watermarks, Watermarks::of_fractions(low, high), "{gib}");
            assert_eq!((card.always.len(), card.never.len()), (always, never), "{gib}");
            assert_eq!(card.mode.name(), "balanced");
        }
        assert_eq!(sdnext_card(0).mode.name(), "none");
    }

    #[test]
    fn a1111_advises_by_card() {
        let names = [4, 6, 8, 12].map(|gib| a1111_card(gib * GIB).name());
        assert_eq!(names, ["a1111:lowvram", "a1111:medvram", "medvram-sdxl", "none"]);
    }

    #[test]
    fn invokes_safe_cap_is_the_card_less_working_memory() {
        assert_eq!(invoke_safe_cap(12 * GIB, 3 * GIB), 9 * GIB);
        assert_eq!(invoke_safe_cap(2 * GIB, 3 * GIB), 0);
    }

    #[test]
    fn diffsynth_advises_by_what_holds_the_job() {
        let names = [(80, 64), (24, 64), (24, 32)]
            .map(|(card, ram)| diffsynth_card(56 * GIB, card * GIB, ram * GIB).name());
        assert_eq!(names, ["none", "vram_limit", "disk"]);
    }
}
