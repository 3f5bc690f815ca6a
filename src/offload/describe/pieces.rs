//! The units of a pass: layers and what is around them in order, cut where overrides say so.

use std::collections::HashMap;

use crate::base::{Error, Result};
use crate::plan::Keep;
use crate::weights::{Grouping, Model, Unit};

use super::names::{Names, Turn};
use super::overrides::Overrides;

/// One unit to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) name: String,
    /// Ascending, which is file order.
    pub(super) tensors: Vec<usize>,
    pub(super) keep: Keep,
}

/// The layers in their order; before them and behind them the rest, by name where that tells,
/// else by where it stands in the file.
pub(super) fn pass_order<'g>(
    model: &Model,
    grouping: &'g Grouping,
    names: &Names,
) -> Vec<&'g Unit> {
    let first_layer = grouping.layers.iter().filter_map(|unit| unit.tensors.first()).min();
    let comes_before = |unit: &&Unit| {
        let first = unit.tensors.first();
        match first.and_then(|&at| model.tensors().get(at)).map(|tensor| names.turn(tensor)) {
            Some(Turn::Before) => true,
            Some(Turn::Behind) => false,
            Some(Turn::ByFile) | None => first < first_layer,
        }
    };
    let (before, behind): (Vec<&Unit>, Vec<&Unit>) = grouping.rest.iter().partition(comes_before);
    before.into_iter().chain(&grouping.layers).chain(behind).collect()
}

/// Cuts units where overrides tell their tensors apart. What has to stay, or must not, is a unit
/// of its own beside the others of its layer.
pub(super) fn cut(model: &Model, order: &[&Unit], overrides: &Overrides) -> Result<Vec<Piece>> {
    let mut pieces: Vec<Piece> = Vec::with_capacity(order.len());
    let mut own_units: HashMap<String, usize> = HashMap::new();
    for unit in order {
        let of_unit = overrides.keep(&unit.name)?;
        // The first piece of this unit for each of the three; indices into `pieces`.
        let mut of_keep: [Option<usize>; 3] = [None; 3];
        for &at in &unit.tensors {
            let Some(tensor) = model.tensors().get(at) else { continue };
            let keep = match overrides.keep(&tensor.name)? {
                Keep::Planned => of_unit,
                of_tensor => of_tensor,
            };
            let place = match overrides.unit_of(&tensor.name) {
                Some(text) => own_units.entry(text.to_owned()).or_insert_with(|| {
                    pieces.push(Piece { name: text.to_owned(), tensors: Vec::new(), keep });
                    pieces.len() - 1
                }),
                None => of_keep[keep as usize].get_or_insert_with(|| {
                    pieces.push(Piece { name: unit.name.clone(), tensors: Vec::new(), keep });
                    pieces.len() - 1
                }),
            };
            let piece = &mut pieces[*place];
            piece.keep = joined(piece, keep, &tensor.name)?;
            piece.tensors.push(at);
        }
        name_apart(&mut pieces, &of_keep);
    }
    for piece in &mut pieces {
        piece.tensors.sort_unstable();
    }
    Ok(pieces)
}

/// What a unit of the user's own has to do when `keep` of one more tensor is heard.
fn joined(piece: &Piece, keep: Keep, tensor: &str) -> Result<Keep> {
    match (piece.keep, keep) {
        (one, other) if one == other => Ok(one),
        (Keep::Planned, said) | (said, Keep::Planned) => Ok(said),
        _ => Err(Error::invalid(
            "unit",
            &piece.name,
            format!("some of its tensors always stay and others, like '{tensor}', never do"),
        )),
    }
}

/// Where a layer became several pieces, the planned one keeps its name.
fn name_apart(pieces: &mut [Piece], of_keep: &[Option<usize>; 3]) {
    if of_keep.iter().flatten().count() < 2 {
        return;
    }
    for (keep, suffix) in [(Keep::Always, "always"), (Keep::Never, "never")] {
        if let Some(at) = of_keep[keep as usize] {
            let name = &mut pieces[at].name;
            *name = format!("{name} ({suffix})");
        }
    }
}
