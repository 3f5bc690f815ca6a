//! Scores as tables for people.

use riverbed::base::format_bytes;
use riverbed::replay::Score;

use crate::text::table;

/// What stands where nothing was measured.
const NONE: &str = "-";

pub(super) fn scores(scores: &[Score]) -> String {
    let mut text = String::new();
    if let Some(first) = scores.first() {
        text.push_str(&format!("conf {} on {}\n\n", first.config, first.device));
    }
    text.push_str(&memory(scores));
    if scores.iter().any(|score| score.calls.is_some()) {
        text.push('\n');
        text.push_str(&calls(scores));
    }
    for score in scores {
        if let Some(perturbed) = &score.perturbed {
            text.push_str(&format!(
                "\n{}: with other sizes at most {:.4} of what was live was reserved, {:.1} ns/op\n",
                score.trace, perturbed.perturbed_over_live, perturbed.perturbed_ns_per_op
            ));
        }
        for (name, rate) in &score.ops_per_s {
            let threads = name.trim_start_matches("ops_per_s_").trim_end_matches('t');
            let rate = rate.map_or_else(|| "failed".into(), |rate| format!("{:.2}", rate / 1e6));
            text.push_str(&format!(
                "\n{}: {rate} million operations a second on {threads} thread(s)",
                score.trace
            ));
        }
    }
    if scores.iter().any(|score| !score.ops_per_s.is_empty()) {
        text.push('\n');
    }
    text.push_str(&notes(scores));
    text
}

fn memory(scores: &[Score]) -> String {
    let head = [
        "TRACE",
        "OPS",
        "PEAK LIVE",
        "RESERVED",
        "RES/LIVE",
        "WARM",
        "DEV",
        "FRESH NS/OP",
        "NS/OP",
        "",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(scores.iter().map(|score| {
        let fresh = score.fresh.as_ref();
        let none = || NONE.to_string();
        vec![
            score.trace.clone(),
            score.ops.to_string(),
            format_bytes(score.peak_live),
            fresh.map_or_else(none, |fresh| format_bytes(fresh.peak_reserved)),
            fresh.map_or_else(none, |fresh| format!("{:.4}", fresh.reserved_over_live)),
            score.warm.as_ref().map_or_else(none, |warm| {
                format!("{:.4}", warm.warm_peak_reserved as f64 / score.peak_live.max(1) as f64)
            }),
            fresh.map_or_else(none, |f| format!("{}/{}", f.device_allocs, f.device_frees)),
            fresh.map_or_else(none, |fresh| format!("{:.1}", fresh.fresh_ns_per_op)),
            score.warm.as_ref().map_or_else(none, |warm| format!("{:.1}", warm.ns_per_op)),
            if score.ok { String::new() } else { "FAILED".into() },
        ]
    }));
    table(&rows, &[1, 2, 3, 4, 5, 6, 7, 8])
}

fn calls(scores: &[Score]) -> String {
    let head = ["TRACE", "ALLOC", "P99", "FREE", "P99", "1.02", "1.05", "1.10", "1.25", "MINCAP"];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(scores.iter().map(|score| {
        let mut row = vec![score.trace.clone()];
        let times = score.calls.as_ref();
        row.extend(times.map_or([0.0; 4].map(|_| NONE.to_string()), |t| {
            [t.alloc_ns_mean, t.alloc_ns_p99, t.free_ns_mean, t.free_ns_p99]
                .map(|ns| format!("{ns:.0}"))
        }));
        let capacity = score.capacity.as_ref();
        row.extend(["1.02", "1.05", "1.10", "1.25"].map(|factor| {
            let fits = capacity.and_then(|capacity| capacity.fits.get(factor));
            fits.map_or(NONE, |&fits| if fits { "yes" } else { "no" }).to_string()
        }));
        row.push(mincap(score));
        row
    }));
    table(&rows, &[1, 2, 3, 4, 5, 6, 7, 8, 9])
}

/// The least capacity that is enough, over peak live.
pub(super) fn mincap(score: &Score) -> String {
    match score.capacity.as_ref().map(|capacity| capacity.min_capacity_over_live) {
        None => NONE.into(),
        Some(0.0) => ">4".into(),
        Some(factor) => format!("{factor:.3}"),
    }
}

/// What the readers have to say.
pub(super) fn notes(scores: &[Score]) -> String {
    let lines = scores.iter().flat_map(|score| {
        score.notes.iter().map(|note| format!("note: {}: {note}\n", score.trace))
    });
    let lines: String = lines.collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}
