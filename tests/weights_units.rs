//! Grouping into layers: families, orders, patterns, and what the errors offer.

#[path = "support/model_files.rs"]
mod model_files;

use model_files::safetensors;
use riverbed::weights::{ALIGN_BYTES, Grouping, Model, UnitLayout};
use riverbed::{Error, Result};

/// A model of one-byte tensors with these names in this file order.
fn model(names: &[&str]) -> (tempfile::TempDir, Model) {
    let directory = tempfile::tempdir().unwrap();
    let tensors: Vec<_> = names.iter().map(|name| (*name, "U8", &[1u64][..], &[0u8][..])).collect();
    std::fs::write(directory.path().join("m.safetensors"), safetensors(&tensors)).unwrap();
    let model = Model::open(directory.path()).unwrap();
    (directory, model)
}

fn preset(names: &[&str]) -> Result<Grouping> {
    Grouping::by_preset(&model(names).1)
}

fn layer_names(grouping: &Grouping) -> Vec<&str> {
    grouping.layers.iter().map(|unit| unit.name.as_str()).collect()
}

#[test]
fn layers_run_by_number_and_not_by_spelling() {
    let names: Vec<String> = (0..12).map(|i| format!("blk.{i}.w")).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names[2], "blk.10.w");
    names.push("output.weight");
    let grouping = preset(&names).unwrap();
    let expected: Vec<String> = (0..12).map(|i| format!("blk.{i}")).collect();
    assert_eq!(layer_names(&grouping), expected);
    assert_eq!(grouping.layers[2].tensors, [4]);
    assert_eq!(grouping.rest.len(), 1);
    assert_eq!(grouping.rest[0].name, "output.weight");
}

#[test]
fn a_unit_holds_its_tensors_in_file_order_with_their_bytes() {
    let names = ["h.1.b", "h.0.a", "wte", "h.1.a", "h.0.b"];
    let grouping = preset(&names).unwrap();
    assert_eq!(layer_names(&grouping), ["h.0", "h.1"]);
    assert_eq!(grouping.layers[0].tensors, [1, 4]);
    assert_eq!(grouping.layers[1].tensors, [0, 3]);
    assert_eq!((grouping.layer_bytes(), grouping.largest_layer_bytes()), (4, 2));
    assert_eq!(grouping.units().count(), 3);
}

#[test]
fn stacks_run_in_the_order_of_their_model() {
    for (names, expected) in [
        // FLUX as published, and as diffusers has it, where single sorts first.
        (
            vec!["single_blocks.0.w", "double_blocks.1.w", "double_blocks.0.w", "img_in.w"],
            vec!["double_blocks.0", "double_blocks.1", "single_blocks.0"],
        ),
        (
            vec!["single_transformer_blocks.0.w", "transformer_blocks.0.w"],
            vec!["transformer_blocks.0", "single_transformer_blocks.0"],
        ),
        // A UNet: the middle has no number, and its inner blocks are no stacks.
        (
            vec![
                "down_blocks.0.attentions.0.transformer_blocks.0.w",
                "mid_block.attentions.0.transformer_blocks.0.w",
                "mid_block.resnets.0.w",
                "up_blocks.1.w",
                "up_blocks.0.w",
            ],
            vec!["down_blocks.0", "mid_block", "up_blocks.0", "up_blocks.1"],
        ),
        // T5 and BART: the encoder runs first, wherever it is stored.
        (
            vec!["decoder.block.0.layer.0.w", "encoder.block.0.layer.1.w"],
            vec!["encoder.block.0", "decoder.block.0"],
        ),
        (
            vec!["model.decoder.layers.0.w", "model.encoder.layers.0.w"],
            vec!["model.encoder.layers.0", "model.decoder.layers.0"],
        ),
        (vec!["bert.encoder.layer.0.w"], vec!["bert.encoder.layer.0"]),
        (vec!["joint_blocks.0.w"], vec!["joint_blocks.0"]),
    ] {
        assert_eq!(layer_names(&preset(&names).unwrap()), expected);
    }
}

#[test]
fn stacks_with_different_prefixes_are_different_stacks() {
    let grouping = preset(&[
        "text_model.encoder.layers.0.w",
        "text_model.encoder.layers.1.w",
        "vision_model.encoder.layers.0.w",
    ])
    .unwrap();
    assert_eq!(
        layer_names(&grouping),
        [
            "text_model.encoder.layers.0",
            "text_model.encoder.layers.1",
            "vision_model.encoder.layers.0"
        ]
    );
}

#[test]
fn numbers_beyond_64_bits_number_no_layer() {
    let huge = "layers.18446744073709551616.w";
    let grouping = preset(&["layers.0.w", huge, "layers.18446744073709551615.w"]).unwrap();
    assert_eq!(layer_names(&grouping), ["layers.0", "layers.18446744073709551615"]);
    assert_eq!(grouping.rest[0].name, huge);
}

#[test]
fn a_model_without_layers_is_refused_with_the_way_out() {
    let text = preset(&["stem.w", "stages.0.w"]).unwrap_err().to_string();
    for word in ["no layers", "2 tensors", "'stem.w'", "blk.{i}.", "--layers", "stages.{i}."] {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
    assert!(preset(&[]).is_err());
}

#[test]
fn a_user_pattern_chooses_the_stack() {
    let (_directory, model) =
        model(&["stages.0.w", "stages.1.w", "x.stages.0.w", "model.layers.0.w"]);
    let grouping = Grouping::by_pattern(&model, "stages.{i}.").unwrap();
    assert_eq!(layer_names(&grouping), ["stages.0", "stages.1"]);
    assert_eq!(grouping.rest.len(), 2);
}

#[test]
fn a_user_pattern_that_fits_nothing_offers_what_would() {
    let (_directory, model) = model(&["embed.w", "model.layers.0.w", "model.layers.1.w"]);
    let error = Grouping::by_pattern(&model, "layers.{i}.").unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }));
    let text = error.to_string();
    for word in ["'layers.{i}.'", "none of 3", "'embed.w'", "these would: model.layers.{i}."] {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
    let text = Grouping::by_pattern(&model, "model.layers.").unwrap_err().to_string();
    assert!(text.contains("needs {i}"), "{text}");
}

#[test]
fn a_layer_packs_into_aligned_places_and_few_reads() {
    let directory = tempfile::tempdir().unwrap();
    let file = safetensors(&[
        ("h.0.a", "U8", &[512], &[1; 512]),
        ("h.0.b", "U8", &[100], &[2; 100]),
        ("h.1.a", "U8", &[512], &[3; 512]),
        ("h.0.c", "U8", &[8], &[4; 8]),
    ]);
    std::fs::write(directory.path().join("m.safetensors"), &file).unwrap();
    let model = Model::open(directory.path()).unwrap();
    let grouping = Grouping::by_preset(&model).unwrap();
    let layout = UnitLayout::new(&model, &grouping.layers[0]).unwrap();
    assert_eq!(layout.len_bytes, 512 + 256 + 256);
    assert_eq!(layout.reads().len(), 2);
    // Carried out, the reads put every tensor where the layout says it is.
    let mut packed = vec![0; layout.len_bytes as usize];
    for read in layout.reads() {
        let (from, to) = (read.file_offset_bytes as usize, read.dst_offset_bytes as usize);
        let len = read.len_bytes as usize;
        packed[to..to + len].copy_from_slice(&file[from..from + len]);
    }
    for placed in &layout.tensors {
        assert_eq!(placed.offset_bytes % ALIGN_BYTES, 0);
        let tensor = &model.tensors()[placed.tensor];
        let (from, to) = (tensor.offset_bytes as usize, placed.offset_bytes as usize);
        let len = placed.len_bytes as usize;
        assert_eq!(packed[to..to + len], file[from..from + len], "{}", tensor.name);
    }
}
