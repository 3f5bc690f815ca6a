//! YAML to a value, as Python's reader takes it, in whose systems these files are written. Depth
//! is bounded and aliases are refused, so that no small file becomes a large value.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Deeper files are no settings.
const DEPTH_MAX: usize = 32;

/// A collection that is being read.
enum Open {
    List(Vec<Value>),
    /// The entries so far, and the key whose value comes next.
    Map(Map<String, Value>, Option<String>),
}

/// The first document of the text.
pub(super) fn value(text: &str) -> Result<Value, String> {
    let mut open: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        let at = |reason: &str| format!("line {}: {reason}", span.start.line());
        let done = match event {
            Event::Scalar(text, style, _, tag) => {
                let is_plain = style == ScalarStyle::Plain && tag.is_none();
                if is_plain { plain(&text) } else { Value::String(text.into_owned()) }
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                if open.len() > DEPTH_MAX {
                    return Err(at("nested too deeply"));
                }
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                if open.len() > DEPTH_MAX {
                    return Err(at("nested too deeply"));
                }
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(list)) => Value::Array(list),
                Some(Open::Map(map, _)) => Value::Object(map),
                None => return Err(at("a collection ends that never began")),
            },
            Event::Alias(_) => return Err(at("aliases are not read: write the value out")),
            Event::DocumentEnd | Event::StreamEnd => break,
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => continue,
        };
        match open.last_mut() {
            None => return Ok(done),
            Some(Open::List(list)) => list.push(done),
            Some(Open::Map(map, key)) => match key.take() {
                None => *key = Some(key_text(done).ok_or_else(|| at("a key is a word"))?),
                Some(name) => {
                    if map.contains_key(&name) {
                        return Err(at(&format!("'{name}' stands twice")));
                    }
                    map.insert(name, done);
                }
            },
        }
    }
    Ok(Value::Null)
}

fn key_text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A scalar without quotes: nothing, a truth, a number or a word.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let looks_like_a_number = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    let number = || {
        let whole = text.parse::<i64>().ok().map(Value::from);
        whole.or_else(|| text.parse::<f64>().ok().filter(|n| n.is_finite()).map(Value::from))
    };
    looks_like_a_number.then(number).flatten().unwrap_or_else(|| Value::String(text.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_reads_as_python_has_it() {
        let text = "# InvokeAI\na: 4.5\nb: [x, 'yes', 1]\nc:\n  d: True\n  e:\n1: ~\nv: 4.0.2\n";
        let expected = json!(
            {"a": 4.5, "b": ["x", "yes", 1], "c": {"d": true, "e": null}, "1": null, "v": "4.0.2"}
        );
        assert_eq!(value(text), Ok(expected));
        assert_eq!(value(""), Ok(Value::Null));
    }

    #[test]
    fn what_is_no_settings_file_is_refused_with_the_line() {
        let deep = "[".repeat(10_000);
        for (text, says) in [
            ("a: &x [1]\nb: *x", "aliases"),
            ("a: 1\na: 2", "twice"),
            ("? [a]\n: 1", "a word"),
            (&*deep, ""),
            ("a: [1", ""),
            ("\"", ""),
        ] {
            let error = value(text).unwrap_err();
            assert!(error.contains(says), "{text:.20}: {error}");
        }
    }
}
