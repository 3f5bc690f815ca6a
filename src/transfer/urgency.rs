//! What a copy or a load is for.

/// Whether somebody waits. What somebody waits for overtakes what is done ahead of need: it has a
/// stream of its own, and waits for no more than what is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Urgency {
    /// Wanted now.
    Demand,
    /// Speculation: wanted later, or never.
    Ahead,
}

impl Urgency {
    /// Both, the first to be served first.
    pub(super) const ALL: [Self; 2] = [Self::Demand, Self::Ahead];
}
