//! The systems whose names, keys and units are understood.

use std::fmt;

use crate::base::{Error, Result};
use crate::conf::suggest;

/// A system whose modes people know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum System {
    /// AUTOMATIC1111's stable-diffusion-webui.
    A1111,
    /// Hugging Face's diffusers.
    Diffusers,
    /// DiffSynth-Studio.
    Diffsynth,
    /// InvokeAI.
    Invoke,
    /// SD.Next.
    Sdnext,
}

impl System {
    /// All of them, by name.
    pub const ALL: &[Self] =
        &[Self::A1111, Self::Diffusers, Self::Diffsynth, Self::Invoke, Self::Sdnext];

    /// What qualifies a mode's name (`a1111` in `a1111:medvram`).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::A1111 => "a1111",
            Self::Diffusers => "diffusers",
            Self::Diffsynth => "diffsynth",
            Self::Invoke => "invoke",
            Self::Sdnext => "sdnext",
        }
    }

    /// Other spellings of [`name`](Self::name).
    const fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::A1111 => &["automatic1111"],
            Self::Diffusers => &["hf"],
            Self::Diffsynth => &["diffsynthstudio"],
            Self::Invoke => &["invokeai"],
            Self::Sdnext => &["sd.next", "vlad"],
        }
    }

    /// Reads a system's name; letter case, `-` and `_` matter for nothing.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] that lists the names.
    pub fn parse(text: &str) -> Result<Self> {
        let given: String =
            text.chars().filter(|c| !matches!(c, '-' | '_')).collect::<String>().to_lowercase();
        let known = Self::ALL.iter().copied();
        let mut found =
            known.filter(|system| system.name() == given || system.aliases().contains(&&*given));
        found.next().ok_or_else(|| {
            let names = Self::ALL.iter().map(|system| system.name());
            let hint = suggest::hint(&given, names.clone());
            let expected = format!("systems are {}{hint}", names.collect::<Vec<_>>().join(", "));
            Error::invalid("system", text, expected)
        })
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_known_by_their_usual_spellings() {
        for (text, system) in [
            ("a1111", System::A1111),
            ("InvokeAI", System::Invoke),
            ("SD.Next", System::Sdnext),
            ("DiffSynth-Studio", System::Diffsynth),
        ] {
            assert_eq!(System::parse(text).ok(), Some(system), "{text}");
        }
        let error = System::parse("invokee").unwrap_err().to_string();
        assert!(error.contains("did you mean 'invoke'?"), "{error}");
    }
}
