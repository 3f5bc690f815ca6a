//! Printing: tables for people, JSON for programs. A reader that goes away early (`| head`) is
//! no failure.

use std::io::{self, Write};

use crate::Failure;

/// Prints text to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("writing the output failed: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints one JSON object on a line of its own.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value)
        .map_err(|error| Failure::Failed(format!("writing JSON failed: {error}")))?;
    print(&format!("{text}\n"))
}

/// A time for people: four digits behind the point, of milliseconds where it is short.
pub(crate) fn short_seconds(seconds: f64) -> String {
    if seconds < 0.01 { format!("{:.4} ms", seconds * 1e3) } else { format!("{seconds:.4} s") }
}

/// Lays rows out in columns, two spaces apart; those in `right` are right-aligned.
pub(crate) fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if right.contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
