//! From `--mode` and its switches to what the planner is held to.

use riverbed::Error;
use riverbed::plan::Rules;

use super::args::Args;
use crate::Failure;

pub(super) fn of(args: &Args) -> Result<Rules, Failure> {
    let mut rules = rules_of(&args.mode)?;
    rules.split |= args.split;
    rules.single_buffer |= args.single_buffer;
    Ok(rules)
}

/// The rules of a mode by its name.
fn rules_of(mode: &str) -> Result<Rules, Failure> {
    match mode {
        "auto" => Ok(Rules::auto()),
        _ => Err(Error::invalid("mode", mode, "modes are auto").into()),
    }
}
