//! A pass as a picture of text: three lanes over time.

use super::timeline::{Stretch, Timeline};

/// From empty to full.
const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The names of the lanes, and the room they take.
const MARGIN: usize = 9;
/// Narrower is no picture, wider no gain.
const WIDTHS: std::ops::RangeInclusive<usize> = 40..=200;

/// The lanes of a pass, `width` characters wide: how busy the link is, how busy compute is, where
/// it waits, and how full a ring of so many bytes is.
pub(super) fn draw(pass: &Timeline, ring_bytes: u64, width: usize) -> String {
    let columns = width.clamp(*WIDTHS.start(), *WIDTHS.end()) - MARGIN;
    if pass.seconds <= 0.0 {
        return String::new();
    }
    let step = pass.seconds / columns as f64;
    let copies = shares(&pass.copies, step, columns);
    let computes = shares(&pass.computes, step, columns);
    let lane =
        |name: &str, cells: String| format!("{name:<width$}{}\n", cells.trim_end(), width = MARGIN);
    let levels = |shares: &[f64]| shares.iter().map(|&share| level(share)).collect::<String>();
    let mut text = lane("copies", levels(&copies));
    text += &lane("compute", levels(&computes));
    let waits: String =
        computes.iter().map(|&share| if share < 0.75 { '^' } else { ' ' }).collect();
    if waits.contains('^') {
        text += &lane("waits", waits);
    }
    if ring_bytes > 0 {
        text += &lane("ring", levels(&fill(pass, ring_bytes, step, columns)));
    }
    let end = crate::text::short_seconds(pass.seconds);
    text + &format!("{:MARGIN$}0{end:>width$}\n", "", width = columns - 1)
}

/// Of each column's time, the share that the stretches cover.
fn shares(stretches: &[Stretch], step: f64, columns: usize) -> Vec<f64> {
    let mut shares = vec![0.0; columns];
    for stretch in stretches {
        let first = (stretch.start / step).max(0.0) as usize;
        let last = ((stretch.end / step) as usize).min(columns - 1);
        for (column, share) in shares.iter_mut().enumerate().take(last + 1).skip(first) {
            let (start, end) = (column as f64 * step, (column + 1) as f64 * step);
            *share += (stretch.end.min(end) - stretch.start.max(start)).max(0.0) / step;
        }
    }
    shares
}

/// How full the ring is at the end of each column: as at the last end of a copy or a unit.
fn fill(pass: &Timeline, ring_bytes: u64, step: f64, columns: usize) -> Vec<f64> {
    let mut ends: Vec<&Stretch> = pass.copies.iter().chain(&pass.computes).collect();
    ends.sort_by(|a, b| a.end.total_cmp(&b.end));
    let mut ends = ends.into_iter().peekable();
    let mut there = ends.peek().map_or(0.0, |first| first.ring_bytes);
    let at_end_of = |column: usize| (column + 1) as f64 * step;
    let mut fills = Vec::with_capacity(columns);
    for column in 0..columns {
        while let Some(stretch) = ends.next_if(|stretch| stretch.end <= at_end_of(column)) {
            there = stretch.ring_bytes;
        }
        fills.push(there / ring_bytes as f64);
    }
    fills
}

fn level(share: f64) -> char {
    let steps = (LEVELS.len() - 1) as f64;
    LEVELS[(share.clamp(0.0, 1.0) * steps).round() as usize]
}

/// The width of the terminal; of a file or a pipe, that of a page.
pub(super) fn terminal_width() -> usize {
    const PAGE: usize = 100;
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.ok().map_or(PAGE, |size| usize::from(size.ws_col)).clamp(*WIDTHS.start(), *WIDTHS.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(start: f64, end: f64) -> Stretch {
        Stretch { start, end, ring_bytes: 5.0 }
    }

    #[test]
    fn lanes_show_who_is_busy_and_who_waits() {
        let pass = Timeline {
            seconds: 40.0,
            copies: vec![stretch(0.0, 40.0)],
            computes: vec![stretch(0.0, 10.0), stretch(20.0, 40.0)],
        };
        let text = draw(&pass, 10, 49);
        let lines: Vec<&str> = text.lines().collect();
        let quarter = "█".repeat(10);
        assert_eq!(lines[0], format!("copies   {}", quarter.repeat(4)));
        assert_eq!(lines[1], format!("compute  {quarter}{}{quarter}{quarter}", " ".repeat(10)));
        assert_eq!(lines[2], format!("waits    {}{}", " ".repeat(10), "^".repeat(10)));
        assert_eq!(lines[3], format!("ring     {}", "▄".repeat(40)));
        assert!(lines[4].ends_with("40.0000 s"), "{text}");
    }

    #[test]
    fn a_pass_of_no_time_is_no_picture() {
        assert_eq!(draw(&Timeline::default(), 10, 80), "");
    }
}
