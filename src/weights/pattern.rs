//! How a tensor's name tells its layer. A pattern is text with `{i}` where the layer's number
//! stands. Presets cover the common families and may follow any dotted prefix; a user's pattern
//! is anchored at the start of the name. Building units from matches is in `units`.

use crate::base::{Error, Result};

/// Stands for the layer's number.
const NUMBER: &str = "{i}";

/// Preset patterns in the order in which their stacks run: encoders before decoders, a UNet
/// down, through and up, FLUX's double blocks before its single ones, vision blocks before the
/// language layers they feed. One that is another behind a prefix (`model.layers.{i}.`,
/// `transformer.h.{i}.`) needs no line of its own.
pub(super) const PRESETS: &[&str] = &[
    "encoder.layer.{i}.",
    "encoder.layers.{i}.",
    "encoder.block.{i}.",
    "enc.blk.{i}.",
    "decoder.layer.{i}.",
    "decoder.layers.{i}.",
    "decoder.block.{i}.",
    "dec.blk.{i}.",
    "transformer.layer.{i}.",
    "down_blocks.{i}.",
    "mid_block.",
    "up_blocks.{i}.",
    "input_blocks.{i}.",
    "middle_block.{i}.",
    "output_blocks.{i}.",
    "double_blocks.{i}.",
    "single_blocks.{i}.",
    "joint_blocks.{i}.",
    "transformer_blocks.{i}.",
    "single_transformer_blocks.{i}.",
    "blocks.{i}.",
    "blk.{i}.",
    "h.{i}.",
    "layers.{i}.",
];

/// A tensor's place in a stack of layers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place<'a> {
    /// Rank of the stack's preset; 0 for a user's pattern.
    pub(super) rank: usize,
    /// The name up to the number: what tells two stacks apart.
    pub(super) stack: &'a str,
    /// The layer's number.
    pub(super) number: u64,
    /// The name up to the end of the number, less a closing dot: the layer's name.
    pub(super) layer: &'a str,
}

/// A pattern of the user's, checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pattern<'a> {
    before: &'a str,
    after: &'a str,
}

impl<'a> Pattern<'a> {
    /// Takes a pattern apart.
    pub(super) fn parse(text: &'a str) -> Result<Self> {
        let refuse = |expected: &str| {
            Err(Error::invalid(
                "layers",
                text,
                format!("{expected}; write a name's start like 'model.layers.{NUMBER}.'"),
            ))
        };
        match text.split_once(NUMBER) {
            None => refuse("a pattern needs {i} where the layer's number stands"),
            Some((_, after)) if after.contains(NUMBER) => {
                refuse("a pattern has one {i}, for the outermost number")
            }
            Some((before, after)) => Ok(Self { before, after }),
        }
    }

    /// Where `name` belongs, if its start matches.
    pub(super) fn place<'n>(&self, name: &'n str) -> Option<Place<'n>> {
        let number_start = name.starts_with(self.before).then_some(self.before.len())?;
        place_at(name, number_start, self.after, 0)
    }
}

/// Where `name` belongs by the presets. The number nearest to the name's start wins, so that
/// `down_blocks.0.transformer_blocks.1.` is layer 0 of the down blocks; among presets that name
/// the same number (`encoder.layers`, `layers`) the earlier one.
pub(super) fn place_by_preset(name: &str) -> Option<Place<'_>> {
    PRESETS
        .iter()
        .enumerate()
        .flat_map(|(rank, preset)| {
            dotted_starts(name).filter_map(move |start| preset_at(name, start, preset, rank))
        })
        .min_by_key(|place| (place.stack.len(), place.rank))
}

/// The pattern that a user would write for a preset's stack.
pub(super) fn pattern_of(place: &Place<'_>) -> String {
    format!("{}{NUMBER}.", place.stack)
}

fn preset_at<'n>(name: &'n str, start: usize, preset: &str, rank: usize) -> Option<Place<'n>> {
    let (before, after) = preset.split_once(NUMBER).unwrap_or((preset, ""));
    if !name[start..].starts_with(before) {
        return None;
    }
    let number_start = start + before.len();
    if before == preset {
        // A part without a number, such as a UNet's middle, is a stack of one layer.
        let layer = name[..number_start].trim_end_matches('.');
        return Some(Place { rank, stack: &name[..number_start], number: 0, layer });
    }
    place_at(name, number_start, after, rank)
}

/// Reads the number at `number_start`. A number beyond `u64` numbers no layer.
fn place_at<'n>(name: &'n str, number_start: usize, after: &str, rank: usize) -> Option<Place<'n>> {
    let rest = name.get(number_start..)?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let number = rest[..digits].parse().ok()?;
    let layer_end = rest[digits..].starts_with(after).then_some(number_start + digits)?;
    let layer = name[..layer_end + after.len()].trim_end_matches('.');
    Some(Place { rank, stack: &name[..number_start], number, layer })
}

/// Where the parts of a dotted name start.
fn dotted_starts(name: &str) -> impl Iterator<Item = usize> + '_ {
    std::iter::once(0).chain(name.match_indices('.').map(|(dot, _)| dot + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str) -> Option<(&str, u64)> {
        place_by_preset(name).map(|place| (place.layer, place.number))
    }

    #[test]
    fn presets_find_the_outermost_layer_behind_any_prefix() {
        for (name, expected) in [
            ("model.layers.12.mlp.up_proj.weight", "model.layers.12"),
            ("blk.7.attn_q.weight", "blk.7"),
            ("bert.encoder.layer.3.output.dense.bias", "bert.encoder.layer.3"),
            ("h.0.attn.c_attn.weight", "h.0"),
            ("text_model.encoder.layers.5.mlp.fc1.weight", "text_model.encoder.layers.5"),
            ("encoder.block.1.layer.0.SelfAttention.q.weight", "encoder.block.1"),
            ("down_blocks.2.attentions.0.transformer_blocks.1.x", "down_blocks.2"),
            ("mid_block.resnets.0.conv1.weight", "mid_block"),
            (
                "model.diffusion_model.double_blocks.18.img_mod.w",
                "model.diffusion_model.double_blocks.18",
            ),
        ] {
            assert_eq!(layer(name).map(|(layer, _)| layer), Some(expected), "{name}");
        }
    }

    #[test]
    fn what_is_no_layer_number_is_left_out() {
        for name in [
            "model.layers.norm.weight",
            "model.layers.99999999999999999999.weight",
            "controlnet_down_blocks.0.weight",
            "layers.3",
            "layers.٣.weight",
            "layers.-1.weight",
            "",
            "...",
            "embed.weight",
        ] {
            assert_eq!(layer(name), None, "{name}");
        }
    }

    #[test]
    fn user_patterns_are_anchored_and_need_one_number() {
        let pattern = Pattern::parse("stages.{i}.").unwrap();
        assert_eq!(pattern.place("stages.10.conv").map(|place| place.number), Some(10));
        assert_eq!(pattern.place("net.stages.10.conv"), None);
        let plain = Pattern::parse("layer{i}").unwrap();
        assert_eq!(plain.place("layer2.0.conv").map(|place| place.layer), Some("layer2"));
        for bad in ["stages.", "", "a.{i}.b.{i}."] {
            let text = Pattern::parse(bad).unwrap_err().to_string();
            assert!(text.contains("{i}") && text.contains("model.layers.{i}."), "{text}");
        }
    }
}
