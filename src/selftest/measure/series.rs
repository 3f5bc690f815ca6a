//! Repeating a measurement until it is worth something or time is over.

use std::time::{Duration, Instant};

use super::Meter;

/// A figure that was measured several times.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Measurement {
    /// What it is about (`copies`).
    pub group: &'static str,
    /// What was measured.
    pub name: String,
    /// `ns`, `us`, `GB/s` (10^9 bytes a second), `ms/GiB`, or `x` for a ratio.
    pub unit: &'static str,
    /// The value in the middle.
    pub median: f64,
    /// A quarter of the values are below.
    pub low: f64,
    /// A quarter of the values are above.
    pub high: f64,
    /// How many there are.
    pub samples: usize,
}

/// Rounds of one subject, each adding a value to every figure.
pub(super) struct Series {
    group: &'static str,
    begun: Instant,
    budget: Duration,
    most: usize,
    rounds: usize,
    values: Vec<(String, &'static str, Vec<f64>)>,
}

impl Series {
    pub(super) fn new(group: &'static str, quick: bool, simulated: bool) -> Self {
        // A simulated device says the same each time.
        let most = if simulated {
            2
        } else if quick {
            9
        } else {
            101
        };
        let budget = Duration::from_millis(if quick { 60 } else { 700 });
        Self { group, begun: Instant::now(), budget, most, rounds: 0, values: Vec::new() }
    }

    /// Whether there is another round: two at least, then for as long as there is time.
    pub(super) fn goes_on(&mut self, meter: &Meter<'_>) -> bool {
        let in_time = self.begun.elapsed() < self.budget && self.rounds < self.most;
        let goes_on = self.rounds < 2 || in_time;
        self.rounds += 1;
        goes_on && !meter.stopped()
    }

    /// Adds a value of this round. The first round warms up, and counts where the next ones are
    /// no longer in time.
    pub(super) fn add(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        let name = name.into();
        match self.values.iter_mut().find(|(other, ..)| *other == name) {
            Some((.., values)) => values.push(value),
            None => self.values.push((name, unit, vec![value])),
        }
    }

    /// Leaves all figures with the meter.
    pub(super) fn finish(self, meter: &mut Meter<'_>) {
        for (name, unit, mut values) in self.values {
            if values.len() > 2 {
                values.remove(0);
            }
            values.sort_by(f64::total_cmp);
            let at = |part: usize| values.get((values.len() - 1) * part / 4).copied();
            meter.results.push(Measurement {
                group: self.group,
                name,
                unit,
                median: at(2).unwrap_or(0.0),
                low: at(1).unwrap_or(0.0),
                high: at(3).unwrap_or(0.0),
                samples: values.len(),
            });
        }
    }

    /// The middle of what was added under `name`.
    pub(super) fn median(&self, name: &str) -> f64 {
        let found = self.values.iter().find(|(other, ..)| other == name);
        let mut values = found.map(|(.., values)| values.clone()).unwrap_or_default();
        values.sort_by(f64::total_cmp);
        values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
    }
}
