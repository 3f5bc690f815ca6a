//! What a tensor's name tells of its use: embedding tables, heads, what comes before the layers
//! and what behind them.

use crate::weights::{Model, Tensor};

/// Parts of names of tables whose rows are gathered.
const TABLES: &[&str] = &[
    "embed_tokens",
    "wte",
    "wpe",
    "token_embd",
    "tok_embeddings",
    "position_embd",
    "token_types",
    "word_embeddings",
    "position_embeddings",
    "token_type_embeddings",
    "token_embedding",
    "position_embedding",
    "embed_positions",
];

/// Those of them that a model may use as its head too.
const TIEABLE: &[&str] = &["embed_tokens", "wte", "token_embd", "tok_embeddings"];

/// Parts of names of a language model's head.
const HEADS: &[&str] = &["lm_head", "embed_out"];

/// Parts of names of what runs after the layers.
const BEHIND: &[&str] = &[
    "lm_head",
    "embed_out",
    "output",
    "output_norm",
    "norm",
    "final_norm",
    "final_layer_norm",
    "final_layer",
    "ln_f",
    "proj_out",
    "norm_out",
    "conv_norm_out",
    "conv_out",
    "out",
    "head",
    "pooler",
    "classifier",
];

/// Architectures of GGUF files that have no head at all.
const HEADLESS: &[&str] = &["bert", "t5encoder", "clip"];

/// When a tensor outside the layers is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Before,
    Behind,
    /// The name does not tell: the place in the file does.
    ByFile,
}

/// The names of one model.
#[derive(Debug)]
pub(super) struct Names {
    tied_table: Option<String>,
}

impl Names {
    pub(super) fn of(model: &Model) -> Self {
        let headless = model
            .architecture()
            .is_some_and(|found| HEADLESS.iter().any(|headless| found.contains(headless)));
        let has_head = model.tensors().iter().any(is_own_head);
        // An encoder's copy of the table is no head.
        let tieable = |tensor: &&Tensor| {
            let is_encoder = tensor.name.starts_with("encoder.");
            is_lookup(tensor) && has_part(&tensor.name, TIEABLE) && !is_encoder
        };
        let table = model.tensors().iter().find(tieable).filter(|_| !headless && !has_head);
        Self { tied_table: table.map(|tensor| tensor.name.clone()) }
    }

    /// Whether rows of it are gathered.
    pub(super) fn is_gathered(&self, tensor: &Tensor) -> bool {
        is_lookup(tensor)
    }

    /// Whether rows of it are gathered, and nothing is multiplied with it.
    pub(super) fn is_table(&self, tensor: &Tensor) -> bool {
        is_lookup(tensor) && !self.is_tied(tensor)
    }

    /// Whether it is a language model's head, which is computed for the last token alone.
    pub(super) fn is_head(&self, tensor: &Tensor) -> bool {
        is_own_head(tensor) || self.is_tied(tensor)
    }

    /// The table that is the head too, if there is one.
    pub(super) fn tied_table(&self) -> Option<&str> {
        self.tied_table.as_deref()
    }

    pub(super) fn turn(&self, tensor: &Tensor) -> Turn {
        let embeds = |part: &str| part.contains("embed") || part.contains("embd");
        if self.is_head(tensor) {
            Turn::Behind
        } else if tensor.name.split('.').any(|part| embeds(part) || part.ends_with("_in")) {
            Turn::Before
        } else if has_part(&tensor.name, BEHIND) {
            Turn::Behind
        } else {
            Turn::ByFile
        }
    }

    fn is_tied(&self, tensor: &Tensor) -> bool {
        self.tied_table.as_deref() == Some(&tensor.name)
    }
}

fn is_lookup(tensor: &Tensor) -> bool {
    // T5 calls its table `shared`.
    let is_named = has_part(&tensor.name, TABLES) || tensor.name == "shared.weight";
    tensor.shape.len() == 2 && is_named
}

fn is_own_head(tensor: &Tensor) -> bool {
    tensor.shape.len() == 2 && (has_part(&tensor.name, HEADS) || tensor.name == "output.weight")
}

fn has_part(name: &str, parts: &[&str]) -> bool {
    name.split('.').any(|part| parts.contains(&part))
}
