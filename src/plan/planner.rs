//! From job, rates, budgets and rules to a plan.

use super::job::Job;
use super::plan::Plan;
use super::profile::{Budgets, DeviceRates};
use super::refusal::Refusal;
use super::rules::Rules;

/// Decides what lives where. A pure function: the same input gives the same plan.
///
/// # Errors
/// A [`Refusal`] when the job cannot run so: what is missing, and what would do.
pub fn plan(
    job: &Job,
    rates: &DeviceRates,
    budgets: &Budgets,
    rules: &Rules,
) -> Result<Plan, Box<Refusal>> {
    let _ = (job, rates, budgets);
    Err(Box::new(Refusal {
        mode: rules.mode.clone(),
        reason: "not planned yet".into(),
        limit_bytes: 0,
        needed_bytes: 0,
        ways_out: Vec::new(),
    }))
}
