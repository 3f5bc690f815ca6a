//! Near misses: the name somebody probably meant.

/// Longest name worth comparing, in characters; no key is half as long.
const NAME_LEN_MAX: usize = 64;

/// The candidate nearest to `given`, letter case aside, if one is near enough: at most a
/// third of its letters differ, or only its unit suffix is missing.
pub(crate) fn nearest<'a>(
    given: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let given: Vec<char> = given.to_ascii_lowercase().chars().take(NAME_LEN_MAX + 1).collect();
    if given.len() > NAME_LEN_MAX {
        return None;
    }
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let lower = candidate.to_ascii_lowercase();
            let whole = edit_distance(&given, &lower);
            let bare = lower.strip_suffix("_mb").map(|bare| edit_distance(&given, bare) + 1);
            let distance = bare.map_or(whole, |bare| bare.min(whole));
            (distance <= (lower.len() / 3).max(1)).then_some((distance, candidate))
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// `" (did you mean 'x'?)"`, or nothing.
pub(crate) fn hint<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(given, candidates).map(|name| format!(" (did you mean '{name}'?)")).unwrap_or_default()
}

/// Levenshtein's distance: insertions, deletions and replacements, one row at a time.
fn edit_distance(from: &[char], to: &str) -> usize {
    let mut row: Vec<usize> = (0..=from.len()).collect();
    for (row_index, to_char) in to.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = row_index + 1;
        for (column, &from_char) in from.iter().enumerate() {
            let replaced = diagonal + usize::from(from_char != to_char);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[from.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_found_and_far_ones_are_not() {
        let keys = ["max_split_size_mb", "limit_mb", "backend", "policy"];
        for (given, expected) in [
            ("max_split_size", Some("max_split_size_mb")),
            ("MAX-SPLIT-SIZE-MB", Some("max_split_size_mb")),
            ("limit", Some("limit_mb")),
            ("backedn", Some("backend")),
            ("bakend", Some("backend")),
            ("Policy", Some("policy")),
            ("foo", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, keys), expected, "{given}");
        }
        assert_eq!(nearest(&"x".repeat(1 << 20), keys), None);
    }

    #[test]
    fn distances_are_levenshteins() {
        for (from, to, distance) in [("", "abc", 3), ("kitten", "sitting", 3), ("abc", "abc", 0)] {
            let from: Vec<char> = from.chars().collect();
            assert_eq!(edit_distance(&from, to), distance);
        }
    }
}
