//! Text to tokens and back, by the vocabulary in the model's file.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{PreTokenizerWrapper, Tokenizer};

use crate::Result;

pub(crate) struct Text(Tokenizer);

impl Text {
    pub(crate) fn open(file: &Path) -> Result<Self> {
        let content = Content::read(&mut std::fs::File::open(file)?)?;
        let list = |key: &str| -> Result<Vec<String>> {
            let key = format!("tokenizer.ggml.{key}");
            let values = content.metadata.get(&key).ok_or_else(|| format!("there is no {key}"))?;
            let text = |value: &Value| -> Result<String> { Ok(value.to_string()?.clone()) };
            values.to_vec()?.iter().map(text).collect()
        };
        let vocabulary: HashMap<String, u32> = list("tokens")?.into_iter().zip(0..).collect();
        let model = serde_json::json!({
            "type": "BPE",
            "vocab": vocabulary,
            "merges": list("merges")?,
        });
        let mut tokenizer = Tokenizer::new(serde_json::from_str::<BPE>(&model.to_string())?);
        let bytes = ByteLevel::new(false, true, true);
        tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
            PreTokenizerWrapper::Digits(Digits::new(true)),
            PreTokenizerWrapper::ByteLevel(bytes),
        ])));
        tokenizer.with_decoder(Some(bytes));
        Ok(Self(tokenizer))
    }

    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let tokens = self.0.encode(text, false)?.get_ids().to_vec();
        if tokens.is_empty() { Err("the prompt is empty".into()) } else { Ok(tokens) }
    }

    pub(crate) fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.0.decode(tokens, false)
    }
}
