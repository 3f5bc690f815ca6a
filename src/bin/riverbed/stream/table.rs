//! A run's figures for people.

use riverbed::base::format_bytes;
use riverbed::offload::OffloadStats;

use super::report::Report;
use crate::text::{short_seconds, table};

pub(super) fn for_people(report: &Report) -> String {
    let of = |part: u64, whole: u64| format!("{} of {}", format_bytes(part), format_bytes(whole));
    let Report { resident_bytes, ring_bytes, planned_peak_bytes, .. } = report;
    let rows = [
        (
            "model",
            format!("{} ({}), {}", report.model, report.format, format_bytes(report.model_bytes)),
        ),
        ("device", report.device.clone()),
        ("mode", format!("{}, planned for {}", report.mode, report.planned_for)),
        ("units", format!("{}, {} ahead", report.layers, report.prefetch_depth_units)),
        ("VRAM peak", of(report.peak_reserved_bytes, report.limit_bytes)),
        (
            "  of it",
            format!(
                "{} resident, {} ring; {} planned in all",
                format_bytes(*resident_bytes),
                format_bytes(*ring_bytes),
                format_bytes(*planned_peak_bytes)
            ),
        ),
        (
            "pinned peak",
            format!(
                "{} ({})",
                of(report.pinned_peak_bytes, report.pinned_budget_bytes),
                report.pinned_budget_reason
            ),
        ),
        (
            "moved",
            format!(
                "{} in {} pass(es), link at {:.2} GB/s, {:.2} GB/s over all",
                format_bytes(report.bytes_moved),
                report.passes,
                report.link_bytes_per_second / 1e9,
                report.overall_rate() / 1e9
            ),
        ),
        ("verified", verified(report)),
        ("seconds a pass", pass(report)),
        (
            "compute / copies / stall",
            format!(
                "{:.4} / {:.4} / {:.4} s",
                report.compute_seconds, report.copy_seconds, report.stall_seconds
            ),
        ),
        ("waited for", report.waited_for.into()),
        ("read by", report.disk.to_string()),
        ("  of it", report.stalls.for_people()),
        (
            "in steady passes",
            format!(
                "{} host wait(s), {} device allocation(s)",
                report.host_waits_steady, report.device_allocs_steady
            ),
        ),
        ("short of memory", ladder(&report.ladder)),
    ];
    let rows = rows.map(|(name, value)| vec![name.to_string(), value]);
    let mut text = table(&rows, &[]);
    if report.phases.len() > 1 {
        text.push('\n');
        text += &phases(report);
    }
    text.push_str("\nWhy:\n");
    for reason in report.reasons.iter().chain(&report.notes) {
        text += &format!("- {reason}\n");
    }
    text
}

fn verified(report: &Report) -> String {
    let verdict = match (report.mismatches, report.bytes_verified) {
        (0, 0) => "not asked for",
        (0, _) => "all bytes verified",
        _ => "MISMATCHES",
    };
    format!("{}: {verdict}", format_bytes(report.bytes_verified))
}

fn pass(report: &Report) -> String {
    let Some(main) = report.main_phase() else { return "none".into() };
    format!(
        "{} steady median, {} first; {} planned",
        short_seconds(main.seconds_per_pass),
        short_seconds(main.first_pass_seconds),
        short_seconds(report.planned_seconds_per_pass)
    )
}

/// Steps that were taken, the others left out.
fn ladder(stats: &OffloadStats) -> String {
    let steps = [
        (stats.cache_trims, "cache(s) trimmed"),
        (stats.ring_shrinks, "ring(s) made smaller"),
        (stats.residents_dropped, "resident piece(s) dropped"),
        (stats.single_buffers, "time(s) one unit at a time"),
        (stats.refusals, "refusal(s)"),
        (stats.ring_growths, "ring(s) larger again"),
        (stats.residents_restored, "resident piece(s) back"),
    ];
    let taken = steps.iter().filter(|(count, _)| *count > 0);
    let taken: Vec<_> = taken.map(|(count, what)| format!("{count} {what}")).collect();
    if taken.is_empty() { "never".into() } else { taken.join(", ") }
}

fn phases(report: &Report) -> String {
    let titles = [
        "PHASE",
        "COMPONENT",
        "PASSES",
        "PASS s",
        "PLANNED s",
        "FIRST s",
        "STAYS",
        "RING",
        "STREAMED",
    ];
    let mut rows = vec![titles.map(String::from).to_vec()];
    rows.extend(report.phases.iter().map(|phase| {
        vec![
            phase.name.clone(),
            phase.component.clone(),
            phase.passes.to_string(),
            format!("{:.4}", phase.seconds_per_pass),
            format!("{:.4}", phase.planned_seconds_per_pass),
            format!("{:.4}", phase.first_pass_seconds),
            format_bytes(phase.planned_resident_bytes),
            format_bytes(phase.planned_ring_bytes),
            format_bytes(phase.planned_streamed_bytes),
        ]
    }));
    table(&rows, &[2, 3, 4, 5, 6, 7, 8])
}
