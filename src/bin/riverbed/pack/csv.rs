//! Buffers as comma-separated values, in the form MiniMalloc reads and writes.

use std::fmt::Write;
use std::path::Path;

use riverbed::base::FileError;
use riverbed::pack::{BUFFERS_MAX, Buffer};

/// A file's buffers with their ids.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) ids: Vec<String>,
    pub(super) buffers: Vec<Buffer>,
}

/// Which column holds what.
struct Columns {
    id: Option<usize>,
    lower: usize,
    upper: usize,
    /// The upper end is the last moment of use, as in MiniMalloc's older files.
    upper_is_inclusive: bool,
    size: usize,
    alignment: Option<usize>,
    count: usize,
}

impl Table {
    /// Reads a file. Its first line names the columns, in any order: `lower` and `upper` (which
    /// is exclusive), or `start` and `end` (which is inclusive); `size`; and, if it likes, `id`.
    pub(super) fn read(path: &Path) -> Result<Self, riverbed::Error> {
        let text = std::fs::read(path)
            .map_err(|error| FileError::new(path, format!("cannot be read: {error}")))?;
        let text = String::from_utf8(text).map_err(|error| {
            let offset = error.utf8_error().valid_up_to() as u64;
            FileError::at(path, offset, "not a text file: no UTF-8")
        })?;
        Self::parse(&text).map_err(|reason| FileError::new(path, reason).into())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = (1..).zip(text.trim_start_matches('\u{feff}').lines());
        let header = lines.next().map_or("", |(_, line)| line);
        let columns = Columns::find(header).map_err(|reason| format!("line 1: {reason}"))?;
        let (mut ids, mut buffers) = (Vec::new(), Vec::new());
        for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            if buffers.len() == BUFFERS_MAX {
                return Err(format!("line {number}: more than {BUFFERS_MAX} buffers"));
            }
            let (id, buffer) =
                columns.read(line).map_err(|reason| format!("line {number}: {reason}"))?;
            ids.push(id.unwrap_or_else(|| buffers.len().to_string()));
            buffers.push(buffer);
        }
        Ok(Self { ids, buffers })
    }

    /// The buffers with their offsets, in the order they were read.
    pub(super) fn with_offsets(&self, offsets: &[u64]) -> String {
        let mut text = String::from("id,lower,upper,size,offset\n");
        for ((id, buffer), offset) in self.ids.iter().zip(&self.buffers).zip(offsets) {
            let Buffer { lower, upper, bytes } = buffer;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{id},{lower},{upper},{bytes},{offset}");
        }
        text
    }
}

impl Columns {
    fn find(header: &str) -> Result<Self, String> {
        let names: Vec<String> =
            header.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
        let find = |wanted: &[&str]| {
            let mut places = (0..names.len()).filter(|&at| wanted.contains(&names[at].as_str()));
            match (places.next(), places.next()) {
                (Some(_), Some(_)) => Err(format!("more than one column {}", wanted.join(" or "))),
                (place, _) => Ok(place),
            }
        };
        let need = |wanted: &[&str]| {
            let missing = || {
                format!(
                    "no column {}; the first line names the columns, like id,lower,upper,size",
                    wanted.join(" or ")
                )
            };
            find(wanted)?.ok_or_else(missing)
        };
        let upper = need(&["upper", "end"])?;
        Ok(Self {
            id: find(&["id", "buffer", "buffer_id"])?,
            lower: need(&["lower", "start"])?,
            upper,
            upper_is_inclusive: names[upper] == "end",
            size: need(&["size"])?,
            alignment: find(&["alignment"])?,
            count: names.len(),
        })
    }

    fn read(&self, line: &str) -> Result<(Option<String>, Buffer), String> {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        if fields.len() != self.count {
            let (found, count) = (fields.len(), self.count);
            return Err(format!("{found} fields where the first line names {count}"));
        }
        let number = |name: &str, at: usize| {
            fields[at].parse::<u64>().map_err(|_| {
                format!("{name} '{}' is not a whole number from 0 to 2^64 - 1", fields[at])
            })
        };
        let lower = number("lower", self.lower)?;
        let mut upper = number("upper", self.upper)?;
        if self.upper_is_inclusive {
            upper = upper.checked_add(1).ok_or("end is the largest number there is")?;
        }
        if lower >= upper {
            return Err(format!("it ends at {upper}, not after its start at {lower}"));
        }
        let bytes = number("size", self.size)?;
        if bytes == 0 {
            return Err("size is 0; it must be above 0".into());
        }
        if let Some(alignment) = self.alignment.filter(|&at| !matches!(fields[at], "" | "0" | "1"))
        {
            return Err(format!(
                "alignment {} of a single buffer is not supported; leave the column out and give \
                 --align for all",
                fields[alignment]
            ));
        }
        Ok((self.id.map(|at| fields[at].to_owned()), Buffer { lower, upper, bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name_and_ends_mean_what_their_name_says() {
        let table = Table::parse("size,upper,id,lower,note\n8,2,a,0,x\n\n4,3,b,1,y\r\n").unwrap();
        assert_eq!(table.ids, ["a", "b"]);
        assert_eq!(table.buffers[1], Buffer { lower: 1, upper: 3, bytes: 4 });
        let table = Table::parse("start,end,size\n0,1,8\n").unwrap();
        assert_eq!((table.ids[0].as_str(), table.buffers[0].upper), ("0", 2));
    }

    #[test]
    fn a_wrong_line_is_named_with_what_is_wrong() {
        for (text, words) in [
            ("", "line 1: no column upper or end"),
            ("lower,upper\n", "no column size"),
            ("lower,start,upper,size\n", "more than one column lower or start"),
            ("lower,upper,size\n0,1,8\n0,1\n", "line 3: 2 fields where the first line names 3"),
            ("lower,upper,size\n0,1,-8\n", "line 2: size '-8'"),
            ("lower,upper,size\n0,1,18446744073709551616\n", "18446744073709551616"),
            ("lower,upper,size\n1,1,8\n", "line 2: it ends at 1"),
            ("lower,upper,size\n0,1,0\n", "line 2: size is 0"),
            ("start,end,size\n0,18446744073709551615,8\n", "largest number"),
            ("lower,upper,size,alignment\n0,1,8,64\n", "--align"),
        ] {
            let error = Table::parse(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }
}
