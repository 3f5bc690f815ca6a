//! The page of parity is whole: a row for each feature, and each test it names exists.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The features of each system, by the letter and the last number of their ids.
const FEATURES: [(char, u32); 4] = [('I', 17), ('S', 25), ('A', 12), ('D', 16)];

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_default()
}

/// The page's rows by id: what stands in the columns behind it.
fn rows() -> BTreeMap<String, Vec<String>> {
    let mut rows = BTreeMap::new();
    for line in text("docs/parity.md").lines() {
        let cells: Vec<String> = line.split('|').map(|cell| cell.trim().to_string()).collect();
        let [_, id, columns @ .., _] = cells.as_slice() else { continue };
        let mut letters = id.chars();
        let is_feature = letters.next().is_some_and(|c| FEATURES.iter().any(|(f, _)| *f == c))
            && letters.as_str().parse::<u32>().is_ok();
        if is_feature {
            let twice = rows.insert(id.clone(), columns.to_vec());
            assert!(twice.is_none(), "{id} has two rows");
        }
    }
    rows
}

/// The text between backquotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Whether the file has a test of this name.
fn has_test(path: &str, name: &str) -> bool {
    let text = text(path);
    let mut attribute_is_near = 0u32;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") {
            attribute_is_near = 4;
        } else if line.starts_with(&format!("fn {name}(")) && attribute_is_near > 0 {
            return true;
        }
        attribute_is_near = attribute_is_near.saturating_sub(1);
    }
    false
}

#[test]
fn every_feature_has_its_row() {
    let rows = rows();
    for (letter, last) in FEATURES {
        for number in 1..=last {
            let id = format!("{letter}{number}");
            let row = rows.get(&id).unwrap_or_else(|| panic!("docs/parity.md has no row {id}"));
            assert_eq!(row.len(), 3, "{id}: {row:?}");
            assert!(row.iter().all(|cell| cell.len() > 3), "{id} has an empty cell");
        }
    }
    let expected: u32 = FEATURES.iter().map(|(_, last)| last).sum();
    assert_eq!(rows.len(), expected as usize, "rows of features nobody knows");
}

#[test]
fn every_row_names_a_test_that_exists_or_says_why_none() {
    let mut problems = Vec::new();
    for (id, row) in rows() {
        let shown_by = &row[2];
        let tests = quoted(shown_by);
        if tests.is_empty() && !shown_by.starts_with("none: ") {
            problems.push(format!("{id}: no test, and no reason"));
        }
        for test in tests {
            let found = test.split_once("::").is_some_and(|(path, name)| has_test(path, name));
            if !found {
                problems.push(format!("{id}: there is no test {test}"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn names_that_are_no_tests_are_found_out() {
    assert!(has_test("tests/parity.rs", "every_feature_has_its_row"));
    assert!(!has_test("tests/parity.rs", "has_test"));
    assert!(!has_test("tests/parity.rs", "every_feature"));
    assert!(!has_test("tests/no_such.rs", "every_feature_has_its_row"));
}
