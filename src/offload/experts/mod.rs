//! Experts of mixture-of-experts layers on the device: those that tokens are routed to stay, as far
//! as a budget goes. What is worth keeping is in `scores`.

mod cache;
mod lease;
mod scores;
mod slots;

pub use cache::{ExpertCache, ExpertOptions};
pub use lease::ExpertLease;
pub use slots::ExpertStats;
