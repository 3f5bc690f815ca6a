//! Whether a model is SDXL, from the names and shapes of its tensors alone.

use crate::weights::Model;

/// SDXL's second text encoder in the original checkpoint: what A1111 asks for.
const CONDITIONER: &str = "conditioner.embedders.1.";
/// The embedding of sizes and pooled text, in the original's names and in diffusers'.
const ADDED_EMBEDDINGS: [&str; 2] = ["label_emb.0.0.weight", "add_embedding.linear_1.weight"];
/// A projection of text in cross-attention: its width is that of the text.
const CROSS_ATTENTION: &str = "attn2.to_k.weight";
/// Widths of text in SDXL's base and refiner.
const TEXT_WIDTHS: [u64; 2] = [2048, 1280];

/// Whether the model is SDXL, its refiner included: a checkpoint with SDXL's conditioner, or a
/// UNet of its shape. Only headers are needed.
#[must_use]
pub fn is_sdxl(model: &Model) -> bool {
    let tensors = model.tensors();
    let has = |part: &str| tensors.iter().any(|tensor| tensor.name.contains(part));
    let text_is_as_wide = tensors.iter().any(|tensor| {
        tensor.name.ends_with(CROSS_ATTENTION)
            && tensor.shape.last().is_some_and(|width| TEXT_WIDTHS.contains(width))
    });
    has(CONDITIONER) || (ADDED_EMBEDDINGS.into_iter().any(has) && text_is_as_wide)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model of two-byte tensors of these names and shapes.
    fn model(tensors: &[(&str, [u64; 2])]) -> Model {
        let mut header = serde_json::Map::new();
        let mut end = 0;
        for (name, shape) in tensors {
            let begin = end;
            end += shape[0] * shape[1] * 2;
            let value = serde_json::json!(
                {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
            );
            header.insert((*name).into(), value);
        }
        let header = serde_json::to_vec(&header).unwrap();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(&header);
        bytes.resize(bytes.len() + end as usize, 0);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        std::fs::write(&path, bytes).unwrap();
        Model::open(path).unwrap()
    }

    #[test]
    fn sdxl_is_known_by_its_conditioner_or_its_unet() {
        let to_k = "model.diffusion_model.input_blocks.4.1.attn2.to_k.weight";
        let label = "model.diffusion_model.label_emb.0.0.weight";
        let diffusers = "add_embedding.linear_1.weight";
        for (tensors, expected) in [
            (&[("conditioner.embedders.1.model.ln_final.weight", [2, 1])][..], true),
            (&[(label, [4, 2]), (to_k, [1, 2048])], true),
            (&[(diffusers, [4, 2]), ("down.0.attn2.to_k.weight", [1, 2048])], true),
            // The refiner's text is narrower.
            (&[(label, [4, 2]), (to_k, [1, 1280])], true),
            // SD1.5, and SD2.1 with image embeddings.
            (&[(to_k, [1, 768])], false),
            (&[(label, [4, 2]), (to_k, [1, 1024])], false),
        ] {
            assert_eq!(is_sdxl(&model(tensors)), expected, "{tensors:?}");
        }
    }
}
