//! A run's findings for people.

use riverbed::base::format_bytes;
use riverbed::selftest::{Checked, Measurement, Report};

use crate::text::table;

pub(super) fn for_people(report: &Report) -> String {
    let info = &report.device;
    let mut text =
        format!("{}: {}, {}\n", info.name, info.description, format_bytes(info.total_bytes));
    text.push('\n');
    text.push_str(&checks(&report.checks));
    text.push('\n');
    text.push_str(&measurements(&report.measurements));
    if !report.bars.is_empty() {
        text.push('\n');
        text.push_str(&bars(report));
    }
    let Report { passed, skipped, failed, .. } = report;
    text.push_str(&format!("\n{passed} passed, {skipped} skipped, {failed} failed\n"));
    text
}

/// A line for each subject and reason, and one for each check that failed.
fn checks(checks: &[Checked]) -> String {
    let mut rows = vec![["CHECKS", "", ""].map(String::from).to_vec()];
    for group in checks.chunk_by(|one, two| one.group == two.group) {
        let mut counts: Vec<(&str, &str, usize)> = Vec::new();
        for check in group.iter().filter(|check| check.outcome != "failed") {
            let kind = (check.outcome, check.reason.as_deref().unwrap_or_default());
            match counts.iter_mut().find(|(outcome, why, _)| (*outcome, *why) == kind) {
                Some((.., count)) => *count += 1,
                None => counts.push((kind.0, kind.1, 1)),
            }
        }
        let Some(subject) = group.first().map(|check| check.group.replace('_', " ")) else {
            continue;
        };
        rows.extend(counts.into_iter().map(|(outcome, why, count)| {
            vec![subject.clone(), format!("{count} {outcome}"), why.to_string()]
        }));
        for check in group {
            if let Some(finding) = &check.finding {
                let text = format!("{}: {finding}", check.name.replace('_', " "));
                rows.push(vec![subject.clone(), "FAILED".into(), text]);
            }
        }
    }
    table(&rows, &[])
}

fn measurements(measurements: &[Measurement]) -> String {
    let heads = ["MEASURED", "", "MEDIAN", "QUARTILES", "", "UNIT", "SAMPLES"];
    let mut rows = vec![heads.map(String::from).to_vec()];
    for measured in measurements {
        rows.push(vec![
            measured.group.to_string(),
            measured.name.clone(),
            number(measured.median),
            number(measured.low),
            number(measured.high),
            measured.unit.to_string(),
            measured.samples.to_string(),
        ]);
    }
    table(&rows, &[2, 3, 4, 6])
}

fn bars(report: &Report) -> String {
    let mut rows = vec![["BARS", "", "", ""].map(String::from).to_vec()];
    rows.extend(report.bars.iter().map(|bar| {
        let verdict = if bar.met { "met" } else { "missed" };
        vec![bar.name.to_string(), number(bar.bar), number(bar.value), verdict.to_string()]
    }));
    table(&rows, &[1, 2])
}

/// Four figures that count.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        1000.0.. => 0,
        100.0.. => 1,
        10.0.. => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}
