//! What was measured of a device, as a profile of the simulator.

use std::collections::BTreeMap;

use crate::base::GIB;
use crate::device::{Call, DeviceInfo};

/// Figures that make a profile, and that the project's bars are about.
#[derive(Debug, Default)]
pub(in crate::selftest) struct Figures {
    /// By call: bytes it was about, and its nanoseconds.
    costs: BTreeMap<&'static str, Vec<(u64, f64)>>,
    /// 10^9 bytes a second.
    pub(in crate::selftest) h2d_gb_per_s: Option<f64>,
    pub(in crate::selftest) d2h_gb_per_s: Option<f64>,
    pub(in crate::selftest) memory_gb_per_s: Option<f64>,
    pub(in crate::selftest) start_ns: Option<f64>,
    pub(in crate::selftest) cached_pair_ns: Option<f64>,
    pub(in crate::selftest) pool_pair_ns: Option<f64>,
    /// Link rate of a streamed pass.
    pub(in crate::selftest) streamed_gb_per_s: Option<f64>,
    /// A streamed pass against the longer of its compute and its copies.
    pub(in crate::selftest) streamed_ratio: Option<f64>,
}

impl Figures {
    /// Notes what a call cost.
    pub(super) fn call(&mut self, call: Call, bytes: u64, ns: f64) {
        self.costs.entry(call.name()).or_default().push((bytes, ns));
    }

    /// The profile, with what was not measured named as the simulator's own guess.
    ///
    /// # Errors
    /// Rates that were not measured.
    pub(in crate::selftest) fn profile(&self, info: &DeviceInfo) -> Result<String, String> {
        let by = format!("measured by riverbed selftest on {} ({})", info.name, info.description);
        let rate = |rate: Option<f64>, what: &str| {
            let rate = rate.filter(|rate| rate.is_finite() && *rate > 0.0);
            let rate = rate.ok_or_else(|| format!("the rate of {what} was not measured"))?;
            Ok::<_, String>(serde_json::json!({"value": rate, "source": by}))
        };
        let costs: serde_json::Map<String, serde_json::Value> = self
            .costs
            .iter()
            .map(|(&call, points)| {
                let (base_us, us_per_gib) = line(points);
                let mut cost = serde_json::json!({"base_us": base_us, "source": source(call, &by)});
                if us_per_gib > 0.0 {
                    cost["us_per_gib"] = us_per_gib.into();
                }
                (call.to_string(), cost)
            })
            .collect();
        let profile = serde_json::json!({
            "description": format!("{}, as measured", info.description),
            "capacity_bytes": {"value": info.total_bytes, "source": by},
            "granularity_bytes": {"value": info.granularity_bytes, "source": by},
            "memory_gb_per_s": rate(self.memory_gb_per_s, "device memory")?,
            "h2d_gb_per_s": rate(self.h2d_gb_per_s, "copies to the device")?,
            "d2h_gb_per_s": rate(self.d2h_gb_per_s, "copies to the host")?,
            "copy_engines": {"value": info.copy_engines.clamp(1, 16), "source": by},
            "start_us": {"value": self.start_ns.unwrap_or(0.0).max(0.0) / 1e3, "source": by},
            "costs": costs,
        });
        let text = serde_json::to_string_pretty(&profile).map_err(|error| error.to_string())?;
        Ok(text + "\n")
    }
}

fn source(call: &str, by: &str) -> String {
    match call {
        // One call of ours makes both, and only their sum can be timed.
        "map" => format!("{by}: timed with set_access, which has it all"),
        "set_access" => format!("{by}, with map"),
        _ => by.into(),
    }
}

/// Base and slope of the line through the points of the fewest and the most bytes, in
/// microseconds and microseconds a GiB; neither is below 0.
fn line(points: &[(u64, f64)]) -> (f64, f64) {
    let least = points.iter().min_by_key(|(bytes, _)| *bytes);
    let most = points.iter().max_by_key(|(bytes, _)| *bytes);
    let (Some(&(few, short)), Some(&(many, long))) = (least, most) else { return (0.0, 0.0) };
    if many == few {
        return (short.max(0.0) / 1e3, 0.0);
    }
    let per_byte = ((long - short) / (many - few) as f64).max(0.0);
    let base = (short - per_byte * few as f64).max(0.0);
    (base / 1e3, per_byte * GIB as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_through_two_points_has_their_base_and_slope() {
        assert_eq!(line(&[]), (0.0, 0.0));
        assert_eq!(line(&[(7, 2000.0)]), (2.0, 0.0));
        let (base, slope) = line(&[(GIB, 5000.0), (0, 1000.0)]);
        assert_eq!((base, slope), (1.0, 4.0));
        // Noise must not make a cost negative.
        assert_eq!(line(&[(0, 1000.0), (GIB, 500.0)]), (1.0, 0.0));
    }
}
