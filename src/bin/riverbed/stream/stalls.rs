//! What a run waited for: by cause, and layer by layer.

use std::collections::BTreeMap;

use riverbed::plan::Plan;
use riverbed::prefetch::StallCauses;

use super::passes::Outcome;

/// Less than this part of a run spent waiting is not worth a word.
const NOTABLE: f64 = 0.02;

/// Seconds of device time, as sums over all passes.
#[derive(Debug, serde::Serialize)]
pub(super) struct Stalls {
    by_cause: Causes,
    by_layer: Vec<LayerStalls>,
}

#[derive(Debug, serde::Serialize)]
struct LayerStalls {
    layer: String,
    compute_seconds: f64,
    #[serde(flatten)]
    causes: Causes,
}

#[derive(Debug, serde::Serialize)]
struct Causes {
    disk_seconds: f64,
    window_seconds: f64,
    link_seconds: f64,
    room_seconds: f64,
    host_seconds: f64,
}

impl Stalls {
    /// Of all passes; a component's units are counted over all of its phases.
    pub(super) fn of(plan: &Plan, outcome: &Outcome) -> Self {
        let mut all = StallCauses::default();
        let mut components: BTreeMap<usize, Vec<(u64, StallCauses)>> = BTreeMap::new();
        for (phase, passes) in plan.phases.iter().zip(&outcome.phases) {
            let units = components.entry(phase.component).or_default();
            units.resize(phase.plan.units.len(), Default::default());
            for pass in passes {
                all.add(&pass.stalls.causes);
                for part in &pass.stalls.units {
                    if let Some((compute_ns, causes)) = units.get_mut(part.unit) {
                        *compute_ns += part.compute_ns;
                        causes.add(&part.causes);
                    }
                }
            }
        }
        let is_one = components.len() < 2;
        let mut by_layer = Vec::new();
        for (component, units) in components {
            let Some(phase) = plan.phases.iter().find(|phase| phase.component == component) else {
                continue;
            };
            let layers = phase.plan.units.iter().zip(units).map(|(unit, (compute_ns, causes))| {
                let of_component = || format!("{}/{}", phase.plan.name, unit.name);
                LayerStalls {
                    layer: if is_one { unit.name.clone() } else { of_component() },
                    compute_seconds: seconds(compute_ns),
                    causes: Causes::of(&causes),
                }
            });
            by_layer.extend(layers);
        }
        Self { by_cause: Causes::of(&all), by_layer }
    }

    /// How many units there are.
    pub(super) fn layers(&self) -> usize {
        self.by_layer.len()
    }

    /// The cause that cost most of a run of `wall` seconds.
    pub(super) fn waited_for(&self, wall: f64) -> &'static str {
        let causes = self.by_cause.named();
        let all: f64 = causes.iter().map(|(_, seconds)| seconds).sum();
        let most = causes.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        most.filter(|_| all >= NOTABLE * wall).map_or("nothing to speak of", |(cause, _)| {
            match *cause {
                "disk" => "the disk: the link stood idle while units were read",
                "window" => "the pinned window: it is too small to keep disk and link busy",
                "link" => "the link: copies were not all hidden behind compute",
                "room" => "room: the ring is too small to load further ahead",
                _ => "the host: nothing was enqueued",
            }
        })
    }

    pub(super) fn for_people(&self) -> String {
        let parts = self.by_cause.named().map(|(cause, seconds)| format!("{cause} {seconds:.4}"));
        format!("{} s", parts.join(", "))
    }
}

impl Causes {
    fn of(causes: &StallCauses) -> Self {
        Self {
            disk_seconds: seconds(causes.disk_ns),
            window_seconds: seconds(causes.window_ns),
            link_seconds: seconds(causes.link_ns),
            room_seconds: seconds(causes.room_ns),
            host_seconds: seconds(causes.host_ns),
        }
    }

    fn named(&self) -> [(&'static str, f64); 5] {
        [
            ("disk", self.disk_seconds),
            ("window", self.window_seconds),
            ("link", self.link_seconds),
            ("room", self.room_seconds),
            ("host", self.host_seconds),
        ]
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
