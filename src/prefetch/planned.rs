//! What a unit is once it is loaded, and how large, for whoever plans or loads units without a ring.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::transform::{Transform, UnitTransform};
use super::view::{UnitContent, UnitView};
use crate::base::Result;
use crate::device::{DevicePtr, Stream};
use crate::weights::{Model, Unit, UnitLayout};

/// A unit as it is loaded and as it is used: for whoever loads units without a ring.
#[derive(Debug)]
pub(crate) struct PlannedUnit {
    /// As it is loaded.
    pub(crate) layout: UnitLayout,
    content: Arc<UnitContent>,
    transform: Option<UnitTransform>,
}

impl PlannedUnit {
    /// A unit of `model`, changed as `transform` says.
    ///
    /// # Errors
    /// A unit that is not of this model; what the transform says.
    pub(crate) fn new(
        model: &Model,
        unit: &Unit,
        transform: Option<&Arc<dyn Transform>>,
    ) -> Result<Self> {
        let layout = UnitLayout::new(model, unit)?;
        let planned = match transform {
            Some(transform) => UnitTransform::plan(model, &layout, transform)?,
            None => None,
        };
        let (transform, content) = match planned {
            Some((transform, content)) => (Some(transform), content),
            None => (None, UnitContent::of(&layout)),
        };
        Ok(Self { layout, content: Arc::new(content), transform })
    }

    /// What it takes, in bytes.
    pub(crate) fn sizes(&self) -> UnitSizes {
        let staged = self.transform.as_ref().is_some_and(|transform| transform.staged);
        UnitSizes {
            raw_bytes: self.layout.len_bytes,
            place_bytes: self.content.len_bytes,
            staging_bytes: if staged { self.layout.len_bytes } else { 0 },
        }
    }

    /// Where tensor number `at` of the unit comes to lie, in bytes from the unit's start.
    pub(crate) fn offset_bytes(&self, at: usize) -> Option<u64> {
        self.content.tensors.get(at).map(|placed| placed.offset_bytes)
    }

    /// Its tensors, once it lies at `base`.
    pub(crate) fn view(&self, model: &Arc<Model>, base: DevicePtr) -> UnitView {
        UnitView::of(Arc::clone(model), Arc::clone(&self.content), base)
    }

    /// Enqueues the change of the unit, whose raw bytes lie at `raw`, to `place`: the same place
    /// where it needs no staging.
    ///
    /// # Safety
    /// As [`UnitTransform::enqueue`].
    pub(crate) unsafe fn enqueue(
        &self,
        model: &Model,
        stream: &Stream,
        raw: DevicePtr,
        place: DevicePtr,
    ) -> Result<()> {
        let Some(transform) = &self.transform else { return Ok(()) };
        // SAFETY: the caller's promise.
        unsafe { transform.enqueue(model, stream, raw, &self.content, place) }
    }
}

/// What a unit takes with a transform, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnitSizes {
    /// As it is read and crosses the link.
    pub raw_bytes: u64,
    /// As it is used: its place in the ring.
    pub place_bytes: u64,
    /// Beside its place while it is loaded: 0 where nothing is made anew.
    pub staging_bytes: u64,
}

impl UnitSizes {
    /// What `unit` of `model` takes, changed as `transform` says. Reads nothing.
    ///
    /// # Errors
    /// A unit that is not of this model; what the transform says.
    pub fn of(model: &Model, unit: &Unit, transform: Option<&Arc<dyn Transform>>) -> Result<Self> {
        Ok(PlannedUnit::new(model, unit, transform)?.sizes())
    }
}
