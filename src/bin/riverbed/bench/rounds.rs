//! Subjects measured in turn, round after round, so that whatever else the machine does meets all
//! of them alike.

use riverbed::base::format_bytes;

use crate::Failure;
use crate::text::table;

/// Seconds that one run of a subject took.
type Run<'a> = Box<dyn FnMut() -> Result<f64, Failure> + 'a>;

/// What is measured.
pub(super) struct Subject<'a> {
    pub(super) name: String,
    /// What one run moves.
    pub(super) bytes: u64,
    pub(super) run: Run<'a>,
}

/// A subject's figures. Rates in bytes a second.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) seconds: Vec<f64>,
    pub(super) median_seconds: f64,
    pub(super) bytes_per_second: f64,
    /// Slowest over quickest run.
    pub(super) spread: f64,
    /// The rate over that of the subject it is held against.
    pub(super) ratio: f64,
}

/// Runs every subject once a round; the first round of a subject that is to be warm is run
/// before. The ratios are to subject number `against`.
pub(super) fn measure(
    subjects: &mut [Subject<'_>],
    rounds: usize,
    against: usize,
    begins: impl Fn(&str, usize),
) -> Result<Vec<Row>, Failure> {
    let mut seconds = vec![Vec::with_capacity(rounds); subjects.len()];
    for round in 0..rounds {
        for (subject, seconds) in subjects.iter_mut().zip(&mut seconds) {
            begins(&subject.name, round);
            seconds.push((subject.run)()?);
        }
    }
    let mut rows: Vec<Row> = subjects.iter().zip(seconds).map(|(s, runs)| row(s, runs)).collect();
    let limit = rows.get(against).map_or(0.0, |row| row.bytes_per_second);
    for row in &mut rows {
        row.ratio = if limit > 0.0 { row.bytes_per_second / limit } else { 0.0 };
    }
    Ok(rows)
}

fn row(subject: &Subject<'_>, seconds: Vec<f64>) -> Row {
    let mut sorted = seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let median_seconds = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    let (first, last) = (sorted.first().copied(), sorted.last().copied());
    let rate = |bytes: u64, seconds: f64| if seconds > 0.0 { bytes as f64 / seconds } else { 0.0 };
    Row {
        name: subject.name.clone(),
        bytes: subject.bytes,
        median_seconds,
        bytes_per_second: rate(subject.bytes, median_seconds),
        spread: first
            .zip(last)
            .map_or(0.0, |(first, last)| if first > 0.0 { last / first } else { 0.0 }),
        ratio: 0.0,
        seconds,
    }
}

/// The rows as a table; `against` names what the ratios are to.
pub(super) fn for_people(rows: &[Row], against: &str) -> String {
    let mut lines = vec![vec![
        String::new(),
        "seconds".into(),
        "rate".into(),
        format!("x {against}"),
        "spread".into(),
    ]];
    lines.extend(rows.iter().map(|row| {
        vec![
            row.name.clone(),
            format!("{:.4}", row.median_seconds),
            format!("{}/s", format_bytes(row.bytes_per_second as u64)),
            format!("{:.3}", row.ratio),
            format!("{:.2}", row.spread),
        ]
    }));
    table(&lines, &[1, 2, 3, 4])
}
