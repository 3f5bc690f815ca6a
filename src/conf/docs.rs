//! The reference page, made from the table so that it cannot fall behind it.

use std::fmt::Display;

use super::table;

/// What the page says before its table of keys.
const PREAMBLE: &str = include_str!("reference.md");

/// The text of `docs/conf.md`.
#[must_use]
pub fn reference_markdown() -> String {
    let mut page = PREAMBLE.to_owned();
    page.push_str(
        "\n## Keys\n\n\
         | key | aliases | type | default | allowed | honoured by | status | effect |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for spec in table::options() {
        let cells = [
            format!("`{}`", spec.key),
            list(spec.aliases.iter().map(|alias| format!("`{alias}`"))),
            spec.value_type().to_owned(),
            spec.default_text(),
            spec.allowed(),
            list(spec.honoured_by),
            spec.status.to_string(),
            spec.help.to_owned(),
        ];
        page.push_str(&format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | ")));
    }
    page.push_str("\n## Words that are not keys\n\n| word | what to do |\n| --- | --- |\n");
    for (word, advice) in table::NOT_KEYS {
        page.push_str(&format!("| `{word}` | {advice} |\n"));
    }
    page
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}
