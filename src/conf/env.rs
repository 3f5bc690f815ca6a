//! Settings from the environment. The variables are reached through a closure, so that tests
//! never touch the environment of their process.

use std::ffi::OsString;

use crate::base::{Error, Result};

use super::explain::Source;
use super::settings::Conf;
use super::tokens::conf_error;

/// The variable that allocators and streamed models always read, under what the program sets.
pub const RIVERBED_ALLOC_CONF: &str = "RIVERBED_ALLOC_CONF";

/// PyTorch's variables, first one first.
pub const PYTORCH_VARIABLES: [&str; 3] =
    ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF"];

/// Whether PyTorch's environment variables count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pytorch {
    /// They do not.
    #[default]
    Ignore,
    /// The first of `PYTORCH_CUDA_ALLOC_CONF`, `PYTORCH_HIP_ALLOC_CONF` and
    /// `PYTORCH_ALLOC_CONF` that is set counts, even if it is empty, and the others do not.
    /// `RIVERBED_ALLOC_CONF` wins over it key by key.
    Honour,
}

impl Conf {
    /// Reads the environment of the process. What the program sets itself is then merged
    /// over it:
    ///
    /// ```
    /// use riverbed::conf::{Conf, Pytorch};
    /// let mut conf = Conf::from_env(Pytorch::Ignore)?;
    /// conf.merge(&Conf::default().with_limit_bytes(8 << 30)?)?;
    /// # Ok::<(), riverbed::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Conf`] for a variable that is not UTF-8 or not a valid conf, named in the
    /// reason, or for two variables whose keys break a rule together.
    pub fn from_env(pytorch: Pytorch) -> Result<Self> {
        Self::from_lookup(pytorch, |name| std::env::var_os(name))
    }

    /// This conf merged over the environment.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env), and where the two break a rule together.
    pub fn over_env(&self, pytorch: Pytorch) -> Result<Self> {
        let mut conf = Self::from_env(pytorch)?;
        conf.merge(self)?;
        Ok(conf)
    }

    /// [`from_env`](Self::from_env) over any source of variables.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn from_lookup(
        pytorch: Pytorch,
        lookup: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self> {
        let theirs = match pytorch {
            Pytorch::Ignore => None,
            Pytorch::Honour => {
                PYTORCH_VARIABLES.iter().find_map(|name| Some((*name, lookup(name)?)))
            }
        };
        let ours = lookup(RIVERBED_ALLOC_CONF).map(|value| (RIVERBED_ALLOC_CONF, value));
        let mut conf = Self::default();
        for (name, value) in theirs.into_iter().chain(ours) {
            let text = value
                .into_string()
                .map_err(|_| conf_error(name, "the variable is not UTF-8; unset or correct it"))?;
            Self::read(&text, Source::Environment(name))
                .and_then(|read| conf.merge(&read))
                .map_err(|error| in_variable(name, error))?;
        }
        Ok(conf)
    }
}

/// The same error, with the variable to correct.
fn in_variable(name: &str, error: Error) -> Error {
    match error {
        Error::Conf { key, reason } => conf_error(key, format!("{reason} (in {name})")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pytorch: Pytorch, variables: &[(&str, &str)]) -> Result<Conf> {
        Conf::from_lookup(pytorch, |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn pytorchs_variables_count_only_when_asked_and_lose_key_by_key() {
        let variables = [
            ("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64,expandable_segments:True"),
            (RIVERBED_ALLOC_CONF, "max_split_size_mb:128"),
        ];
        let ignored = from(Pytorch::Ignore, &variables).unwrap();
        assert_eq!(ignored.to_string(), "max_split_size_mb:128");
        let honoured = from(Pytorch::Honour, &variables).unwrap();
        assert_eq!(honoured.to_string(), "expandable_segments:True,max_split_size_mb:128");
        let sources: Vec<_> = honoured
            .explain()
            .into_iter()
            .filter(|report| honoured.is_set(report.key))
            .map(|report| report.source.to_string())
            .collect();
        assert_eq!(sources, ["PYTORCH_CUDA_ALLOC_CONF", RIVERBED_ALLOC_CONF]);
    }

    #[test]
    fn the_first_pytorch_variable_that_is_set_wins_whole_even_if_empty() {
        let all = [
            ("PYTORCH_CUDA_ALLOC_CONF", ""),
            ("PYTORCH_HIP_ALLOC_CONF", "max_split_size_mb:64"),
            ("PYTORCH_ALLOC_CONF", "max_split_size_mb:128"),
        ];
        for (skipped, expected) in
            [(0, ""), (1, "max_split_size_mb:64"), (2, "max_split_size_mb:128")]
        {
            let conf = from(Pytorch::Honour, &all[skipped..]).unwrap();
            assert_eq!(conf.to_string(), expected);
        }
        assert_eq!(from(Pytorch::Honour, &[]).unwrap(), Conf::default());
    }

    #[test]
    fn our_choice_of_policy_replaces_theirs() {
        let conf = from(
            Pytorch::Honour,
            &[
                ("PYTORCH_ALLOC_CONF", "backend:cudaMallocAsync,max_split_size_mb:64"),
                (RIVERBED_ALLOC_CONF, "policy:caching"),
            ],
        );
        assert_eq!(conf.unwrap().to_string(), "policy:caching,max_split_size_mb:64");
    }

    #[test]
    fn errors_name_the_variable() {
        let error = from(Pytorch::Honour, &[("PYTORCH_ALLOC_CONF", "foo:1")]).unwrap_err();
        assert!(error.to_string().ends_with("(in PYTORCH_ALLOC_CONF)"), "{error}");
        let error = from(
            Pytorch::Honour,
            &[
                ("PYTORCH_ALLOC_CONF", "max_split_size_mb:20"),
                (RIVERBED_ALLOC_CONF, "large_segment_size_mb:64"),
            ],
        );
        let text = error.unwrap_err().to_string();
        assert!(text.contains("'20' is below large_segment_size_mb, which is 64"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_that_is_not_utf8_is_an_error() {
        use std::os::unix::ffi::OsStringExt;
        let error = Conf::from_lookup(Pytorch::Ignore, |_| Some(OsString::from_vec(vec![0xff])));
        let text = error.unwrap_err().to_string();
        assert!(text.contains(RIVERBED_ALLOC_CONF) && text.contains("UTF-8"), "{text}");
    }
}
