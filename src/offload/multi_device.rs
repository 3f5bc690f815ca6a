//! A model over several devices: each has some of its units and streams them under a limit of its
//! own.

use super::streamed::{StreamOptions, StreamedModel};
use crate::base::{Error, Result};
use crate::device::{Device, Stream};
use crate::prefetch::{Lease, PassReport};
use crate::weights::{Grouping, Model, Unit};
use std::ops::Range;
use std::sync::Arc;

/// What one device gets.
#[derive(Debug, Clone)]
pub struct DeviceUnits {
    /// The device.
    pub device: Device,
    /// Its units, by index.
    pub units: Range<usize>,
    /// Its limit, and how it streams. With a [cache](StreamOptions::ram) that devices share, each
    /// unit is in host memory once.
    pub options: StreamOptions,
}

/// A model whose units run on several devices, each with its own limit, ring and link. Which has
/// which is the caller's to say, or [`plan_devices`](crate::plan::plan_devices)'s. What units hand
/// on from one device to the next (activations) is the caller's to copy: see
/// [`hands_over`](Self::hands_over).
#[derive(Debug)]
pub struct MultiDevice {
    parts: Vec<Part>,
    /// The part of each unit, and its number there.
    places: Vec<(usize, usize)>,
}

#[derive(Debug)]
struct Part {
    device: Device,
    model: StreamedModel,
}

impl MultiDevice {
    /// Gives each device its units, in the order of a pass, and takes its memory. Blocks as
    /// [`StreamedModel::load`] does.
    ///
    /// # Errors
    /// Ranges that do not cover all units, each once, in order; as [`StreamedModel::load`], for the
    /// first device of which something does not fit. Everything taken is given back.
    pub fn load(model: &Arc<Model>, units: &[Unit], devices: &[DeviceUnits]) -> Result<Self> {
        let mut places = Vec::with_capacity(units.len());
        let mut parts = Vec::with_capacity(devices.len());
        for DeviceUnits { device, units: range, options } in devices {
            let own = units.get(range.clone()).filter(|_| range.start == places.len());
            let own = own.ok_or_else(|| not_covered(range, places.len(), units.len()))?;
            if own.is_empty() {
                continue;
            }
            places.extend((0..own.len()).map(|at| (parts.len(), at)));
            let grouping = Grouping { layers: own.to_vec(), rest: Vec::new() };
            let model = StreamedModel::load(device, Arc::clone(model), &grouping, options.clone())?;
            parts.push(Part { device: device.clone(), model });
        }
        if places.len() < units.len() {
            return Err(not_covered(&(places.len()..places.len()), places.len(), units.len()));
        }
        Ok(Self { parts, places })
    }

    /// How many units there are.
    #[must_use]
    pub fn units(&self) -> usize {
        self.places.len()
    }

    /// The device a unit runs on.
    #[must_use]
    pub fn device_of(&self, unit: usize) -> Option<&Device> {
        self.places.get(unit).map(|&(part, _)| &self.parts[part].device)
    }

    /// Whether a unit runs on another device than the one before it, which for the first is the
    /// last: what it works on has to be copied there.
    #[must_use]
    pub fn hands_over(&self, unit: usize) -> bool {
        let before = unit.checked_sub(1).unwrap_or(self.places.len().saturating_sub(1));
        self.device_of(unit) != self.device_of(before)
    }

    /// Leases a unit to a stream of its device; see
    /// [`Prefetcher::acquire`](crate::prefetch::Prefetcher::acquire).
    ///
    /// # Errors
    /// No such unit; a stream of another device than the unit's; as there.
    pub fn acquire(&self, unit: usize, stream: &Stream) -> Result<Lease> {
        let Some(&(part, at)) = self.places.get(unit) else {
            return Err(Error::invalid("unit", unit, format!("there are {}", self.places.len())));
        };
        self.parts[part].model.acquire(at, stream)
    }

    /// Ends a pass: `stream_of` gives the stream each device worked on. Blocks until all of them
    /// have run.
    ///
    /// # Errors
    /// What the drivers say. All devices' passes end all the same.
    pub fn finish_pass<'s>(
        &self,
        mut stream_of: impl FnMut(&Device) -> &'s Stream,
    ) -> Result<Vec<PassReport>> {
        let reports: Vec<Result<PassReport>> = (self.parts.iter())
            .map(|part| part.model.finish_pass(stream_of(&part.device)))
            .collect();
        reports.into_iter().collect()
    }

    /// The devices that have units, with the model that runs on each.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = (&Device, &StreamedModel)> {
        self.parts.iter().map(|part| (&part.device, &part.model))
    }
}

fn not_covered(range: &Range<usize>, next: usize, units: usize) -> Error {
    let expected = format!(
        "the ranges must cover units 0 to {units} in order, each once; the next must begin at {next}"
    );
    Error::invalid("units of a device", format_args!("{range:?}"), expected)
}
