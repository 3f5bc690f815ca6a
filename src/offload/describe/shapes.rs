//! Files of shapes: units of a model by bytes and work, without the model.
//!
//! ```json
//! {"name": "flux-dev", "units": [
//!   {"name": "double_blocks.{i}", "count": 19, "bytes": 679662592, "gflop": 1305},
//!   {"name": "final", "bytes": "128MB", "gflop": 2.5}]}
//! ```

use std::path::Path;

use crate::base::{FileError, Result};
use crate::plan::{Component, UnitShape};
use crate::weights::Dtype;

use super::bytes::{named_dtype, note_of};
use super::fields::Field;
use super::overrides::Overrides;

/// More units than any model has; a plan of more is no use to anybody.
const UNITS_MAX: u64 = 100_000;
/// More work than a unit of a pass can have, in 10^9 operations.
const GFLOP_MAX: f64 = 1e15;
/// Stands for the number of a unit among those of its line.
const NUMBER: &str = "{i}";

/// A component of the shapes in `root`, kept in `dtype` where that is narrower than theirs; and
/// what that came to.
pub(super) fn component(
    root: &Field<'_>,
    dtype: Option<Dtype>,
    overrides: &Overrides,
) -> Result<(Component, Vec<String>)> {
    root.object(&["name", "note", "unit_fields", "dtype", "units"])?;
    let file_name = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = match root.get("name") {
        Some(name) => name.text()?.to_owned(),
        None => file_name(root.file).unwrap_or_default(),
    };
    let of_file = match root.get("dtype") {
        Some(field) => named_dtype("dtype", field.text()?).map_err(|_| {
            field.refuse("fp8, fp8_e5m2, fp16, bf16 or fp32: the type that bytes are counted in")
        })?,
        None => Dtype::BF16,
    };
    component_of(name, &root.need("units")?, of_file, dtype, overrides)
}

/// A component of a list of units, whose bytes are counted in `of_list`.
pub(super) fn component_of(
    name: String,
    list: &Field<'_>,
    of_list: Dtype,
    dtype: Option<Dtype>,
    overrides: &Overrides,
) -> Result<(Component, Vec<String>)> {
    let mut component = Component::new(name, units(list)?);
    let notes = keep_in(&mut component, of_list, dtype);
    for unit in &mut component.units {
        unit.keep = overrides.keep(&unit.name)?;
    }
    Ok((component, notes))
}

fn units(list: &Field<'_>) -> Result<Vec<UnitShape>> {
    let mut units = Vec::new();
    for field in list.list()? {
        field.object(&["name", "bytes", "gflop", "count"])?;
        let name = field.need("name")?.text()?;
        let bytes = field.need("bytes")?.bytes(1)?;
        let gflop = field.need("gflop")?.number(0.0..=GFLOP_MAX)?;
        let count = match field.get("count") {
            Some(count) => count.whole(1..=UNITS_MAX)?,
            None => 1,
        };
        if units.len() as u64 + count > UNITS_MAX {
            return Err(list.refuse(&format!("{UNITS_MAX} units together at most")));
        }
        if count > 1 && !name.contains(NUMBER) {
            return Err(field
                .need("name")?
                .refuse("with a count above 1, {i} in the name stands for the number"));
        }
        let numbered = |i: u64| UnitShape::new(name.replace(NUMBER, &i.to_string()), bytes, gflop);
        units.extend((0..count).map(numbered));
    }
    if units.is_empty() {
        return Err(list.refuse("at least one unit"));
    }
    let fits = units.iter().try_fold(0u64, |sum, unit| sum.checked_add(unit.bytes)).is_some();
    if fits {
        Ok(units)
    } else {
        Err(FileError::new(list.file, "units: they have more than 2^64 bytes together").into())
    }
}

/// Scales bytes from one type to another, if that is narrower.
fn keep_in(component: &mut Component, of_file: Dtype, dtype: Option<Dtype>) -> Vec<String> {
    let Some(dtype) = dtype else { return Vec::new() };
    let (from, to) = (of_file.block_bytes(), dtype.block_bytes());
    let before = component.bytes();
    if to < from {
        for unit in &mut component.units {
            unit.bytes = unit.bytes.div_ceil(from).saturating_mul(to);
            unit.wire_bytes = unit.bytes;
        }
    }
    note_of(dtype, before, component.bytes(), false)
}
