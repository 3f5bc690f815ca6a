//! The conf in force, in the words of `riverbed conf`.

use riverbed::Result;
use riverbed::conf::{Conf, OptionReport, PYTORCH_VARIABLES, Pytorch};

#[derive(serde::Serialize)]
pub(super) struct ConfReport {
    /// What is set, as a conf string; none where the variables cannot be read.
    pub(super) conf: Option<String>,
    pub(super) policy: Option<String>,
    /// What is wrong with a variable.
    pub(super) error: Option<String>,
    /// The keys that are set.
    pub(super) options: Vec<OptionReport>,
    /// PyTorch's variables that are set and do not count.
    pub(super) ignored_variables: Vec<&'static str>,
}

impl ConfReport {
    pub(super) fn new(conf: &Result<Conf>, pytorch: Pytorch) -> Self {
        let set = PYTORCH_VARIABLES.into_iter().filter(|name| std::env::var_os(name).is_some());
        // Where they count, the first that is set does.
        let counting = usize::from(pytorch == Pytorch::Honour);
        let ignored_variables = set.skip(counting).collect();
        match conf {
            Ok(conf) => Self {
                conf: Some(conf.to_string()),
                policy: Some(conf.policy().into()),
                error: None,
                options: conf.explain().into_iter().filter(|it| conf.is_set(it.key)).collect(),
                ignored_variables,
            },
            Err(error) => Self {
                conf: None,
                policy: None,
                error: Some(error.to_string()),
                options: Vec::new(),
                ignored_variables,
            },
        }
    }
}
