//! What a user says of units by regular expressions on names.

use regex::Regex;

use crate::base::{Error, Result};
use crate::plan::Keep;

/// Regular expressions on the names of tensors and units; each may match anywhere in a name.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    always: Vec<Regex>,
    never: Vec<Regex>,
    unit: Vec<Regex>,
}

impl Overrides {
    /// What `always` matches stays on the device, what `never` matches is streamed in every
    /// pass. Tensors that `unit` matches become units of their own: those whose matched text is
    /// the same are one unit, named by it (`layers\.\d+\.mlp` makes one of each layer's MLP).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the list, the expression and what is wrong with it.
    ///
    /// ```
    /// use riverbed::offload::Overrides;
    /// assert!(Overrides::new(&["norm"], &[], &[r"layers\.\d+\.mlp"]).is_ok());
    /// assert!(Overrides::new(&["("], &[], &[]).is_err());
    /// ```
    pub fn new(always: &[&str], never: &[&str], unit: &[&str]) -> Result<Self> {
        let compile = |list: &str, texts: &[&str]| {
            let one = |text: &&str| {
                Regex::new(text).map_err(|error| {
                    // The library's text is several lines, the last of which says what is wrong.
                    let error = error.to_string();
                    let reason = error.lines().last().unwrap_or_default().trim().to_owned();
                    Error::invalid(list, text, format!("{reason}; write a regular expression"))
                })
            };
            texts.iter().map(one).collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            always: compile("always", always)?,
            never: compile("never", never)?,
            unit: compile("unit", unit)?,
        })
    }

    /// Refuses an expression that matches none of `names` (of tensors and units): it would have
    /// no effect.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the list, the expression and some of the names.
    pub fn refuse_unmatched(&self, names: &[&str]) -> Result<()> {
        for (list, regexes) in
            [("always", &self.always), ("never", &self.never), ("unit", &self.unit)]
        {
            let unmatched = |regex: &&Regex| !names.iter().any(|name| regex.is_match(name));
            if let Some(regex) = regexes.iter().find(unmatched) {
                let some: Vec<_> = names.iter().take(6).map(|name| format!("'{name}'")).collect();
                let expected = format!(
                    "it matches no unit and no tensor; there are {} names, such as {}",
                    names.len(),
                    some.join(", ")
                );
                return Err(Error::invalid(list, regex.as_str(), expected));
            }
        }
        Ok(())
    }

    /// Whether anything is said of units by tensor, for which a file of shapes has no names.
    pub(super) fn makes_units(&self) -> bool {
        !self.unit.is_empty()
    }

    /// What is said of `name`.
    pub(super) fn keep(&self, name: &str) -> Result<Keep> {
        let find = |regexes: &[Regex]| {
            regexes.iter().find(|regex| regex.is_match(name)).map(|regex| regex.as_str().to_owned())
        };
        match (find(&self.always), find(&self.never)) {
            (None, None) => Ok(Keep::Planned),
            (Some(_), None) => Ok(Keep::Always),
            (None, Some(_)) => Ok(Keep::Never),
            (Some(always), Some(never)) => Err(contradiction(name, &always, &never)),
        }
    }

    /// The unit of its own that the tensor `name` belongs to, if it does.
    pub(super) fn unit_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        let found = self.unit.iter().find_map(|regex| regex.find(name))?;
        Some(found.as_str()).filter(|text| !text.is_empty())
    }
}

fn contradiction(name: &str, always: &str, never: &str) -> Error {
    Error::invalid(
        "always",
        always,
        format!("'{name}' is matched by never '{never}' too; make one of them match less"),
    )
}
