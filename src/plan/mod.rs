//! Rank 2: what lives where, decided before anything is loaded. A pure function from a job
//! (components, their units, phases), a device's rates, budgets and the rules of a mode to a
//! [`Plan`]: which parts stay on the device in which phase, how large the ring is, how long a
//! pass takes, the least any plan could take, and why. Knows no device, no file and no clock;
//! the same input gives the same plan.

mod cycle;
mod devices;
mod division;
mod held;
mod job;
mod optimum;
mod phase;
mod planned;
mod planner;
mod profile;
mod reasons;
mod refusal;
mod regroup;
mod rules;
mod simulate;
mod split;
mod tiers;

pub use devices::{DevicePart, DevicesPlan, PlanDevice, plan_devices};
pub use job::{Component, Grains, Job, Keep, Phase, UnitShape};
pub use planned::{ComponentPlan, MadeOf, PhasePlan, Plan, UnitPlan};
pub use planner::plan;
pub use profile::{Budgets, DeviceRates};
pub use refusal::{Refusal, WayOut};
pub use rules::{Granularity, Retention, Rules, Source};
