//! `riverbed bench`: figures that agree with each other, and nothing left behind.

use serde_json::Value;

use super::process::{Place, fail, json, path};
use super::streaming::{Content, assert_says};

/// Every row of a list: its figures agree, and its ratio is to `limit`'s rate.
#[track_caller]
fn check_rows(rows: &Value, rounds: usize) -> Vec<String> {
    let rows = rows.as_array().unwrap();
    let number =
        |row: &Value, key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
    let limit = number(&rows[0], "bytes_per_second");
    for row in rows {
        let seconds: Vec<f64> =
            row["seconds"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
        assert_eq!(seconds.len(), rounds, "{row}");
        assert!(seconds.contains(&number(row, "median_seconds")), "{row}");
        let rate = number(row, "bytes") / number(row, "median_seconds");
        assert!((rate / number(row, "bytes_per_second") - 1.0).abs() < 1e-6, "{row}");
        assert!((number(row, "ratio") * limit / rate - 1.0).abs() < 1e-6, "{row}");
        assert!(number(row, "spread") >= 1.0, "{row}");
    }
    rows.iter().map(|row| row["name"].as_str().unwrap().to_string()).collect()
}

#[test]
fn a_file_is_loaded_beside_plain_reads() {
    let content = Content::layers(&[&[700_000], &[900_000]]);
    let report = json(&["bench", "io", path(&content.path), "--rounds", "3", "--json"]);
    assert_eq!(report["model_bytes"], 1_600_000);
    assert_eq!(check_rows(&report["disk"], 3).len(), 6);
    let cold = check_rows(&report["cold"], 3);
    assert_says(&cold[0], &["reads of"]);
    assert!(cold.contains(&"riverbed load".to_string()), "{cold:?}");
    assert_eq!(check_rows(&report["warm"], 3)[0], "read + copy, one thread");
    assert!(content.path.exists(), "a model of the user's stays");
}

#[test]
fn copies_are_held_against_bare_ones_and_a_layer_against_its_bytes() {
    let report = json(&["bench", "copy", "--bytes", "5MiB", "--rounds", "3", "--json"]);
    assert_eq!(report["bytes"], 5 << 20);
    assert_eq!(
        check_rows(&report["pinned"], 3),
        ["bare copy", "pinned to device", "device to pinned"]
    );
    assert_eq!(
        check_rows(&report["pageable"], 3),
        ["bare copy, two hops", "pageable to device", "device to pageable"]
    );
    assert_eq!(check_rows(&report["layer"], 3), ["in one piece", "side by side", "scattered"]);
    let bytes = report["layer"][0]["bytes"].as_u64().unwrap();
    for calls in &report["layer_calls"].as_array().unwrap()[1..] {
        assert!(calls.as_u64().unwrap() <= bytes / (4 << 20) + 2, "{report}");
    }
}

#[test]
fn a_pass_is_held_against_its_bound_and_leaves_nothing() {
    let place = Place::new();
    let arguments =
        ["bench", "pass", "--generate", "8MB", "--link", "400MB/s", "--rounds", "2", "--json"];
    let output = place.command(&arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let report: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let number = |key: &str| case[key].as_f64().unwrap_or_else(|| panic!("{key}: {case}"));
        let bound = number("copy_seconds").max(number("compute_seconds"));
        assert!((number("bound_seconds") - bound).abs() < 1e-9, "{case}");
        // No pass is quicker than its bound, but for the clock's own steps.
        assert!(number("ratio") > 0.95, "{case}");
        assert_eq!(case["seconds"].as_array().unwrap().len(), 2);
    }
    assert_eq!(place.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn what_cannot_be_measured_is_refused() {
    fail(&["bench", "io", "m", "--generate", "1MB"], 2, &["--generate"]);
    fail(&["bench", "io", "no/such/model"], 1, &["no/such/model"]);
    fail(&["bench", "io", "--generate", "1MB", "--device", "sim"], 1, &["sim", "use 'host'"]);
    fail(&["bench", "io", "--generate", "1MB", "--dir", "/no/such"], 1, &["/no/such", "--dir"]);
    fail(&["bench", "copy", "--bytes", "1000"], 2, &["--bytes", "1MiB at least"]);
    fail(&["bench", "copy", "--bytes", "100000TB"], 2, &["--bytes", "at most", "may be pinned"]);
    fail(&["bench", "copy", "--device", "sim"], 1, &["sim", "use 'host'"]);
    fail(&["bench", "pass", "--link", "fast"], 2, &["--link", "fast"]);
    fail(&["bench", "pass", "--generate", "8MB", "--ring", "4KiB"], 1, &["limit"]);
    fail(&["bench", "io", "m", "--rounds", "0"], 2, &["--rounds"]);
}
