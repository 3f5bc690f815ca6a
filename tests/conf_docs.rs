//! `docs/conf.md` says what the option table says.

use std::path::Path;

use riverbed::conf::{options, reference_markdown};

#[test]
fn the_reference_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conf.md");
    let made = reference_markdown();
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == made, "docs/conf.md is stale; run: UPDATE_DOCS=1 cargo test --test conf_docs");
}

#[test]
fn the_reference_page_has_one_row_for_every_key() {
    let page = reference_markdown();
    for spec in options() {
        let row = format!("| `{}` |", spec.key);
        assert_eq!(page.matches(&row).count(), 1, "{row}");
    }
}
