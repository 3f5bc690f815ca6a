//! Files of jobs: components and the phases that use them.
//!
//! ```json
//! {"name": "an image",
//!  "components": [
//!    {"name": "text", "model": "t5.safetensors", "tokens": 512, "dtype": "fp8"},
//!    {"name": "transformer", "shape": "flux-dev.json", "keep": "always"},
//!    {"name": "vae", "units": [{"name": "vae", "bytes": "168MB", "gflop": 2500}]}],
//!  "phases": [
//!    {"component": "text"},
//!    {"component": "transformer", "passes": 28, "working_bytes": "2GiB"},
//!    {"name": "decode", "component": "vae", "working_bytes": "3GiB"}]}
//! ```

use std::path::{Path, PathBuf};

use crate::base::{Error, Result};
use crate::plan::{Job, Keep};
use crate::weights::Dtype;

use super::bytes::named_dtype;
use super::fields::{Field, read_json};
use super::opened::{Backing, DescribedJob, Opened, open_model, open_shapes};
use super::{DescribeOptions, shapes};

/// More than one pass a second for a hundred years.
const PASSES_MAX: u64 = u32::MAX as u64;

/// What a component's weights may be given by.
const GIVEN_BY: &[&str] = &["model", "shape", "units"];

pub(super) fn read(
    root: &Field<'_>,
    layers: Option<&str>,
    passes: Option<u32>,
    options: &DescribeOptions,
) -> Result<DescribedJob> {
    root.object(&["name", "note", "components", "phases"])?;
    if let Some(passes) = passes {
        let expected = format!("{} says how often each phase runs", root.file.display());
        return Err(Error::invalid("passes", passes, expected));
    }
    let name = match root.get("name") {
        Some(name) => name.text()?,
        None => "job",
    };
    let mut job = Job::new(name);
    let (mut backings, mut notes) = (Vec::new(), Vec::new());
    let components = root.need("components")?;
    for field in components.list()? {
        let opened = component(&field, layers, options)?;
        if job.components.iter().any(|known| known.name == opened.component.name) {
            return Err(field.need("name")?.refuse("another component has this name"));
        }
        let name = &opened.component.name;
        notes.extend(opened.notes.iter().map(|note| format!("{name}: {note}")));
        job.component(opened.component);
        backings.push(opened.backing);
    }
    if job.components.is_empty() {
        return Err(components.refuse("at least one component"));
    }
    let phases = root.need("phases")?;
    for field in phases.list()? {
        phase(&field, &mut job)?;
    }
    if job.phases.is_empty() {
        return Err(phases.refuse("at least one phase"));
    }
    Ok(DescribedJob { job, backings, notes })
}

fn component(field: &Field<'_>, layers: Option<&str>, options: &DescribeOptions) -> Result<Opened> {
    let keys = ["name", "model", "shape", "units", "layers", "tokens", "dtype", "keep"];
    let given = field.object(&keys)?.keys().filter(|key| GIVEN_BY.contains(&key.as_str()));
    if given.count() != 1 {
        return Err(field.refuse("exactly one of model, shape and units"));
    }
    let name = field.need("name")?.text()?;
    let mut options = options.clone();
    if let Some(tokens) = field.get("tokens") {
        options.tokens = tokens.whole(1..=1 << 40)?;
    }
    if let Some(dtype) = field.get("dtype") {
        let allowed = "fp8 (e4m3), fp8_e5m2, fp16, bf16 or fp32";
        let read = named_dtype("dtype", dtype.text()?).map_err(|_| dtype.refuse(allowed))?;
        options.dtype = Some(read);
    }
    let mut opened = if let Some(path) = field.get("model") {
        let own = field.get("layers");
        let own = own.as_ref().map(Field::text).transpose()?;
        let file = beside(field.file, path.text()?);
        open_model(&file, Some(name), own.or(layers), &options)
            .map_err(|error| path.because(error))?
    } else if let Some(path) = field.get("shape") {
        let path = beside(field.file, path.text()?);
        open_shapes(&Field::root(&path, &read_json(&path)?), &options)?
    } else {
        let list = field.need("units")?;
        let (dtype, overrides) = (options.dtype, &options.overrides);
        let (component, notes) =
            shapes::component_of(name.to_owned(), &list, Dtype::BF16, dtype, overrides)?;
        Opened { component, backing: Backing::Shape, notes }
    };
    name.clone_into(&mut opened.component.name);
    opened.component.keep = match field.get("keep") {
        Some(keep) => keep_of(&keep)?,
        None => options.overrides.keep(name)?,
    };
    Ok(opened)
}

fn phase(field: &Field<'_>, job: &mut Job) -> Result<()> {
    field.object(&["name", "component", "passes", "working_bytes"])?;
    let of = field.need("component")?;
    let wanted = of.text()?;
    let Some(at) = job.components.iter().position(|component| component.name == wanted) else {
        let names: Vec<_> = job.components.iter().map(|known| known.name.as_str()).collect();
        return Err(of.refuse(&format!("components are {}", names.join(", "))));
    };
    let name = match field.get("name") {
        Some(name) => name.text()?,
        None => wanted,
    };
    let passes = match field.get("passes") {
        Some(passes) => passes.whole(1..=PASSES_MAX)?,
        None => 1,
    };
    let working_bytes = match field.get("working_bytes") {
        Some(bytes) => bytes.bytes(0)?,
        None => 0,
    };
    job.phase(name, at, u32::try_from(passes).unwrap_or(u32::MAX), working_bytes);
    Ok(())
}

fn keep_of(field: &Field<'_>) -> Result<Keep> {
    match field.text()? {
        "planned" => Ok(Keep::Planned),
        "always" => Ok(Keep::Always),
        "never" => Ok(Keep::Never),
        _ => Err(field.refuse("planned, always or never")),
    }
}

/// A path of a file, from where that file is.
fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}
