//! From a model's header, a file of shapes or a file that describes a job, to what the planner
//! takes. Reads no weights: milliseconds for a model of any size.

mod bytes;
mod fields;
mod job_file;
mod names;
mod opened;
mod overrides;
mod pieces;
mod shapes;

use crate::base::{Error, Result};
use crate::plan::{Component, Grains, Keep, UnitShape};
use crate::weights::{Dtype, Grouping, Model, Tensor, Unit};

use bytes::{AtRest, packed_bytes};
use names::Names;
use pieces::Piece;

pub use bytes::parse_dtype;
pub use opened::{Backing, DescribedJob};
pub use overrides::Overrides;

/// What becomes of embedding tables, of which a pass reads a few rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tables {
    /// They stay on the device: streaming one would move all of it for a few rows.
    #[default]
    Device,
    /// They stay in host memory, where the caller gathers rows: they are no part of the plan. One
    /// that is the head too is planned as a head.
    Host,
    /// Units like all others.
    Planned,
}

/// How a model is described.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DescribeOptions {
    /// Tokens (rows of activations) that a pass multiplies with each matrix.
    pub tokens: u64,
    /// The type of floats at rest, where narrower than the file's: what is wider is cast once,
    /// when it is loaded.
    pub dtype: Option<Dtype>,
    /// What becomes of embedding tables.
    pub tables: Tables,
    /// What has to stay, what must not, and units of the caller's own.
    pub overrides: Overrides,
}

impl Default for DescribeOptions {
    fn default() -> Self {
        Self { tokens: 1, dtype: None, tables: Tables::default(), overrides: Overrides::default() }
    }
}

/// A model as the planner sees it, and the way back from planned parts to tensors.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Described {
    /// What is planned.
    pub component: Component,
    /// The tensors of each of the component's units, unit by unit and part by part in the same
    /// order.
    pub units: Vec<Unit>,
    /// Tables that stay in host memory ([`Tables::Host`]).
    pub host_tables: Vec<Unit>,
    /// What was assumed, in sentences.
    pub notes: Vec<String>,
}

impl Described {
    /// Describes `model` in units of `grouping`: its layers in order, and around them what is in
    /// no layer. A unit can stay in part, tensor by tensor. Its work is twice its matrices'
    /// elements for each token; what has fewer than two dimensions counts none, and a language
    /// model's head is computed for one token.
    ///
    /// ```
    /// use riverbed::offload::{DescribeOptions, Described};
    /// use riverbed::weights::{Grouping, Model};
    /// # let header = br#"{"h.0.w":{"dtype":"BF16","shape":[8,16],"data_offsets":[0,256]}}"#;
    /// # let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    /// # bytes.extend_from_slice(header);
    /// # bytes.extend_from_slice(&[0; 256]);
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("model.safetensors");
    /// # std::fs::write(&path, bytes)?;
    /// let model = Model::open(&path)?;
    /// let layers = Grouping::by_preset(&model)?;
    /// let described = Described::new("small", &model, &layers, &DescribeOptions::default())?;
    /// assert_eq!(described.component.units[0].name, "h.0");
    /// assert_eq!(described.component.bytes(), 256);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when overrides contradict each other, with the name both match,
    /// or when a unit's padded length does not fit in 64 bits.
    pub fn new(
        name: impl Into<String>,
        model: &Model,
        grouping: &Grouping,
        options: &DescribeOptions,
    ) -> Result<Self> {
        let names = Names::of(model);
        let order = pieces::pass_order(model, grouping, &names);
        let mut at_rest = AtRest::new(options.dtype);
        let mut units = Vec::new();
        let mut shapes = Vec::new();
        let mut host_tables = Vec::new();
        for piece in pieces::cut(model, &order, &options.overrides)? {
            let all = |is: fn(&Names, &Tensor) -> bool| {
                piece.tensors.iter().all(|&at| is(&names, &model.tensors()[at]))
            };
            let is_planned = piece.keep == Keep::Planned;
            if is_planned && options.tables == Tables::Host && all(Names::is_table) {
                host_tables.push(Unit::of(model, piece.name, piece.tensors));
                continue;
            }
            let mut shape = shape_of(model, &piece, &names, &mut at_rest, options.tokens)?;
            if is_planned && options.tables == Tables::Device && all(Names::is_gathered) {
                shape.keep = Keep::Always;
            }
            shapes.push(shape);
            units.push(Unit::of(model, piece.name, piece.tensors));
        }
        let mut notes = at_rest.notes();
        notes.extend(notes_on_tables(&shapes, &units, &host_tables, model, &names));
        Ok(Self { component: Component::new(name, shapes), units, host_tables, notes })
    }
}

fn shape_of(
    model: &Model,
    piece: &Piece,
    names: &Names,
    at_rest: &mut AtRest,
    tokens: u64,
) -> Result<UnitShape> {
    let mut parts = Vec::with_capacity(piece.tensors.len());
    let (mut bytes, mut flop) = (0u64, 0.0);
    for tensor in piece.tensors.iter().map(|&at| &model.tensors()[at]) {
        let too_long = || Error::invalid("unit", &piece.name, "it packs to more than 2^64 bytes");
        let part = packed_bytes(at_rest.bytes(tensor)).ok_or_else(too_long)?;
        bytes = bytes.checked_add(part).ok_or_else(too_long)?;
        parts.push(part);
        flop += flop_of(tensor, names, tokens);
    }
    Ok(UnitShape {
        name: piece.name.clone(),
        bytes,
        wire_bytes: bytes,
        gflop: flop / 1e9,
        grains: Grains::Parts(parts),
        keep: piece.keep,
    })
}

/// Multiplications and additions of one pass.
fn flop_of(tensor: &Tensor, names: &Names, tokens: u64) -> f64 {
    if tensor.shape.len() < 2 || names.is_table(tensor) {
        return 0.0;
    }
    let tokens = if names.is_head(tensor) { tokens.min(1) } else { tokens };
    let elements: f64 = tensor.shape.iter().map(|&dim| dim as f64).product();
    2.0 * elements * tokens as f64
}

/// What became of the tables.
fn notes_on_tables(
    shapes: &[UnitShape],
    units: &[Unit],
    host_tables: &[Unit],
    model: &Model,
    names: &Names,
) -> Vec<String> {
    let gathered = |unit: &&Unit| {
        let tensors = &unit.tensors;
        !tensors.is_empty() && tensors.iter().all(|&at| names.is_gathered(&model.tensors()[at]))
    };
    let kept = shapes.iter().zip(units).filter(|(shape, _)| shape.keep == Keep::Always);
    let on_device = listed(kept.map(|(_, unit)| unit).filter(gathered));
    let on_host = listed(host_tables.iter());
    let mut notes = Vec::new();
    if !on_device.is_empty() {
        notes.push(format!(
            "embedding tables stay on the device ({on_device}): a pass gathers rows of them, and \
             streaming them would move all for a few"
        ));
    }
    if !on_host.is_empty() {
        notes.push(format!(
            "embedding tables stay in host memory ({on_host}), where rows are gathered: they are \
             not counted here"
        ));
    }
    notes.extend(names.tied_table().map(|table| {
        format!("'{table}' is multiplied too: the file has no head of its own, so it counts as one")
    }));
    notes
}

fn listed<'u>(units: impl Iterator<Item = &'u Unit>) -> String {
    units.map(|unit| unit.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
