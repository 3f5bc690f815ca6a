//! What the keys of LoRA files say.

/// What a tensor of a LoRA file is, with the module it is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Role {
    Up(String),
    Down(String),
    Alpha(String),
    /// Part of a patch of another kind.
    Unsupported(&'static str),
    Other,
}

/// How keys of factors go on behind the module, `.weight` aside: PEFT's, kohya's, those of
/// diffusers and of its older attention processors.
const FACTORS: [(&str, &str); 5] = [
    (".lora_A", ".lora_B"),
    (".lora_down", ".lora_up"),
    (".lora.down", ".lora.up"),
    (".lora_linear_layer.down", ".lora_linear_layer.up"),
    ("_lora.down", "_lora.up"),
];

/// Parts of keys of other kinds of patches.
const UNSUPPORTED: [(&str, &str); 11] = [
    (".dora_scale", "DoRA (a magnitude of its own)"),
    ("lora_magnitude_vector", "DoRA (a magnitude of its own)"),
    (".lora_mid", "LoCon with a factor between the two (Tucker)"),
    (".lora_embedding_", "a patch of an embedding as PEFT keeps it"),
    (".hada_", "LoHa"),
    (".lokr_", "LoKr"),
    (".oft_", "OFT"),
    (".diff_b", "a whole difference"),
    (".diff", "a whole difference"),
    (".lora_B.bias", "a patch of a bias"),
    (".lora_up.bias", "a patch of a bias"),
];

/// What the tensor called `key` is.
pub(super) fn role(key: &str) -> Role {
    if let Some((_, kind)) = UNSUPPORTED.iter().find(|(part, _)| key.contains(part)) {
        return Role::Unsupported(kind);
    }
    if let Some(module) = key.strip_suffix(".alpha") {
        return Role::Alpha(module_of(module));
    }
    let stem = key.strip_suffix(".weight").unwrap_or(key);
    for (down, up) in FACTORS {
        for (ending, role) in [(down, Role::Down as fn(String) -> Role), (up, Role::Up)] {
            // PEFT names the adapter behind it: `.lora_A.default.weight`.
            let named = stem.rsplit_once('.').and_then(|(rest, adapter)| {
                let is_name = !adapter.is_empty() && !matches!(adapter, "up" | "down");
                rest.strip_suffix(ending).filter(|_| is_name && ending.starts_with(".lora_"))
            });
            if let Some(module) = stem.strip_suffix(ending).or(named) {
                return role(module_of(module));
            }
        }
    }
    Role::Other
}

/// The module a key begins with. Attention processors stand for the layers they run.
fn module_of(stem: &str) -> String {
    match stem.rsplit_once(".processor.") {
        Some((rest, "to_out")) => format!("{rest}.to_out.0"),
        Some((rest, layer)) => format!("{rest}.{layer}"),
        None => stem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_forms_are_known() {
        for (key, wanted) in [
            ("a.q.lora_A.weight", Role::Down("a.q".into())),
            ("a.q.lora_B.weight", Role::Up("a.q".into())),
            ("a.q.lora_A.default.weight", Role::Down("a.q".into())),
            ("lora_unet_a_q.lora_down.weight", Role::Down("lora_unet_a_q".into())),
            ("lora_unet_a_q.lora_up.weight", Role::Up("lora_unet_a_q".into())),
            ("lora_unet_a_q.alpha", Role::Alpha("lora_unet_a_q".into())),
            ("unet.a.q.lora.up.weight", Role::Up("unet.a.q".into())),
            ("a.q.lora_linear_layer.down.weight", Role::Down("a.q".into())),
            ("a.attn1.processor.to_q_lora.down.weight", Role::Down("a.attn1.to_q".into())),
            ("a.attn1.processor.to_out_lora.up.weight", Role::Up("a.attn1.to_out.0".into())),
            ("emb_params", Role::Other),
            ("a.q.weight", Role::Other),
        ] {
            assert_eq!(role(key), wanted, "{key}");
        }
        for key in ["a.dora_scale", "a.hada_w1_a", "a.lokr_w1", "a.diff", "a.lora_mid.weight"] {
            assert!(matches!(role(key), Role::Unsupported(_)), "{key}");
        }
    }
}
