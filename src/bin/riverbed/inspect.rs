//! `riverbed inspect`: what is in a model file, from its header alone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use riverbed::base::format_bytes;
use riverbed::weights::{Grouping, Model, Unit};

use crate::Failure;
use crate::model_path::resolve;
use crate::text::{print, print_json, table};

/// Show a model's layers, bytes and dtypes; reads the header only
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  riverbed inspect model.safetensors\n  \
    riverbed inspect model.gguf --tensors\n  \
    riverbed inspect DIR --layers 'model.layers.{i}.' --json")]
pub(crate) struct Args {
    /// A .safetensors or .gguf file, a .safetensors.index.json, a directory with one of these,
    /// or the name of a fetched model
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Group layers by this tensor name prefix, {i} being the layer's number
    #[arg(long, value_name = "PATTERN")]
    layers: Option<String>,
    /// List every tensor too
    #[arg(long)]
    tensors: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Report {
    version: u32,
    path: PathBuf,
    format: String,
    model_bytes: u64,
    tensor_count: usize,
    dtypes: BTreeMap<String, u64>,
    layers: Vec<UnitReport>,
    rest: Vec<UnitReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorReport>>,
}

#[derive(serde::Serialize)]
struct UnitReport {
    name: String,
    bytes: u64,
    tensors: usize,
    dtypes: Vec<String>,
}

#[derive(serde::Serialize)]
struct TensorReport {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    bytes: u64,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let model = Model::open(resolve(&args.model))?;
    let grouping = match &args.layers {
        Some(pattern) => Grouping::by_pattern(&model, pattern)?,
        // A model whose layers nobody knows can still be looked at.
        None => Grouping::by_preset(&model).unwrap_or_else(|_| ungrouped(&model)),
    };
    let report = report(&model, &grouping, args.tensors);
    if args.json { print_json(&report) } else { print(&for_people(&report)) }
}

/// Every tensor by itself, in no layer.
fn ungrouped(model: &Model) -> Grouping {
    let tensors = model.tensors().iter().enumerate();
    let rest = tensors.map(|(at, tensor)| Unit {
        name: tensor.name.clone(),
        tensors: vec![at],
        bytes: tensor.len_bytes,
    });
    Grouping { layers: Vec::new(), rest: rest.collect() }
}

fn report(model: &Model, grouping: &Grouping, with_tensors: bool) -> Report {
    let mut dtypes = BTreeMap::new();
    for tensor in model.tensors() {
        *dtypes.entry(tensor.dtype.to_string()).or_insert(0) += tensor.len_bytes;
    }
    let unit = |unit: &Unit| {
        let mut dtypes: Vec<String> =
            unit.tensors.iter().map(|&at| model.tensors()[at].dtype.to_string()).collect();
        dtypes.sort();
        dtypes.dedup();
        UnitReport {
            name: unit.name.clone(),
            bytes: unit.bytes,
            tensors: unit.tensors.len(),
            dtypes,
        }
    };
    let tensors = with_tensors.then(|| {
        let tensor = |tensor: &riverbed::weights::Tensor| TensorReport {
            name: tensor.name.clone(),
            dtype: tensor.dtype.to_string(),
            shape: tensor.shape.clone(),
            bytes: tensor.len_bytes,
        };
        model.tensors().iter().map(tensor).collect()
    });
    Report {
        version: 1,
        path: model.path().to_path_buf(),
        format: model.format().to_string(),
        model_bytes: model.total_bytes(),
        tensor_count: model.tensors().len(),
        dtypes,
        layers: grouping.layers.iter().map(unit).collect(),
        rest: grouping.rest.iter().map(unit).collect(),
        tensors,
    }
}

fn for_people(report: &Report) -> String {
    let dtypes: Vec<String> = report
        .dtypes
        .iter()
        .map(|(name, &bytes)| format!("{name} {}", format_bytes(bytes)))
        .collect();
    let mut text = format!(
        "{} ({}): {} tensors, {}\ndtypes: {}\n\n",
        report.path.display(),
        report.format,
        report.tensor_count,
        format_bytes(report.model_bytes),
        dtypes.join(", ")
    );
    let mut rows = vec![["", "UNIT", "TENSORS", "BYTES", "DTYPES"].map(String::from).to_vec()];
    for (kind, units) in [("layer", &report.layers), ("rest", &report.rest)] {
        rows.extend(units.iter().map(|unit| {
            vec![
                kind.into(),
                unit.name.clone(),
                unit.tensors.to_string(),
                unit.bytes.to_string(),
                unit.dtypes.join(" "),
            ]
        }));
    }
    text.push_str(&table(&rows, &[2, 3]));
    if report.layers.is_empty() {
        text.push_str("\nno layers found: name their prefix with --layers 'layers.{i}.'\n");
    }
    if let Some(tensors) = &report.tensors {
        let mut rows = vec![["TENSOR", "DTYPE", "SHAPE", "BYTES"].map(String::from).to_vec()];
        rows.extend(tensors.iter().map(|tensor| {
            let shape = format!("{:?}", tensor.shape);
            vec![tensor.name.clone(), tensor.dtype.clone(), shape, tensor.bytes.to_string()]
        }));
        text.push('\n');
        text.push_str(&table(&rows, &[3]));
    }
    text
}
