//! The choice of policy. Three keys make it: our `policy`, and PyTorch's spellings
//! `expandable_segments:True` and `backend:cudaMallocAsync`.

use super::form::Form;
use super::suggest;
use super::tokens::Raw;

/// The policy of best-fit blocks cached in driver segments; the default.
pub const CACHING: &str = "caching";
/// The policy of segments that grow in place in reserved address space.
pub const EXPANDABLE: &str = "expandable";
/// The policy that records an iteration and serves the next ones from a packing of it.
pub const PLANNED: &str = "planned";
/// The policy that leaves placement to the driver's stream-ordered pool.
pub const MEMPOOL: &str = "mempool";

/// The keys that make the choice. They are kept or dropped together when a merge finds that
/// the two sides choose differently.
pub(super) const KEYS: [&str; 3] = [POLICY_KEY, BACKEND_KEY, EXPANDABLE_KEY];
const POLICY_KEY: &str = "policy";
const BACKEND_KEY: &str = "backend";
const EXPANDABLE_KEY: &str = "expandable_segments";

/// Who places blocks, in PyTorch's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// One of Riverbed's own policies.
    Native,
    /// The driver's stream-ordered pool: `cudaMallocAsync`, also spelled `hipMallocAsync`.
    MallocAsync,
}

/// The three keys as set, `None` where not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<'a> {
    pub(super) policy: Option<&'a str>,
    pub(super) backend: Option<Backend>,
    pub(super) expandable: Option<bool>,
}

impl<'a> Choice<'a> {
    /// The policy chosen and the key that chose it, `None` for the default.
    pub(super) fn resolve(&self) -> Result<Option<(&'a str, &'static str)>, String> {
        if let Some(contradiction) = self.contradiction() {
            return Err(contradiction);
        }
        Ok(if let Some(policy) = self.policy {
            Some((policy, POLICY_KEY))
        } else if self.expandable == Some(true) {
            Some((EXPANDABLE, EXPANDABLE_KEY))
        } else if self.backend == Some(Backend::MallocAsync) {
            Some((MEMPOOL, BACKEND_KEY))
        } else {
            None
        })
    }

    fn contradiction(&self) -> Option<String> {
        let pool = self.backend == Some(Backend::MallocAsync);
        let clash = |left: &str, right: &str| {
            Some(format!("{left} and {right} choose different policies; remove one of the two"))
        };
        let Some(policy) = self.policy else {
            return (pool && self.expandable == Some(true))
                .then(|| clash("expandable_segments:True", "backend:cudaMallocAsync"))
                .flatten();
        };
        let written = format!("{POLICY_KEY}:{policy}");
        match self.expandable {
            Some(true) if policy != EXPANDABLE => {
                return clash(&written, "expandable_segments:True");
            }
            Some(false) if policy == EXPANDABLE => {
                return clash(&written, "expandable_segments:False");
            }
            _ => {}
        }
        match self.backend {
            Some(Backend::MallocAsync) if policy != MEMPOOL => {
                clash(&written, "backend:cudaMallocAsync")
            }
            Some(Backend::Native) if policy == MEMPOOL => clash(&written, "backend:native"),
            _ => None,
        }
    }
}

/// The name of a policy. Any identifier, because programs register policies of their own.
pub(super) struct PolicyName;

impl Form for PolicyName {
    type Value = String;

    fn type_name(&self) -> &'static str {
        "word"
    }

    fn allowed(&self) -> String {
        format!(
            "{CACHING}, {EXPANDABLE}, {PLANNED}, {MEMPOOL}, or the name of a registered policy (a letter or \
             underscore, then letters, digits, underscores or hyphens)"
        )
    }

    fn read(&self, raw: &Raw<'_>) -> Result<String, String> {
        let word = raw.word()?;
        let starts = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let named = word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if starts && named { Ok(word.into()) } else { Err(format!("'{word}' is not a name")) }
    }

    fn write(&self, value: &String) -> String {
        value.clone()
    }
}

/// PyTorch's word for who places blocks.
pub(super) struct BackendWord;

const BACKENDS: [(&str, Backend); 3] = [
    ("native", Backend::Native),
    ("cudaMallocAsync", Backend::MallocAsync),
    ("hipMallocAsync", Backend::MallocAsync),
];

impl Form for BackendWord {
    type Value = Backend;

    fn type_name(&self) -> &'static str {
        "word"
    }

    fn allowed(&self) -> String {
        "native, cudaMallocAsync or hipMallocAsync".into()
    }

    fn read(&self, raw: &Raw<'_>) -> Result<Backend, String> {
        let word = raw.word()?;
        BACKENDS.iter().find(|(name, _)| *name == word).map(|&(_, backend)| backend).ok_or_else(
            || {
                let hint = suggest::hint(word, BACKENDS.map(|(name, _)| name));
                format!("'{word}' is not a backend{hint}")
            },
        )
    }

    /// Both spellings of the driver's pool print as `cudaMallocAsync`, which PyTorch takes on
    /// every platform.
    fn write(&self, value: &Backend) -> String {
        match value {
            Backend::Native => "native",
            Backend::MallocAsync => "cudaMallocAsync",
        }
        .into()
    }
}
