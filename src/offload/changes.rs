//! What changes a model's weights between the link and their use.

use std::sync::Arc;

use crate::base::{Error, Result};
use crate::pinned::PinnedPool;
use crate::pool::Allocator;
use crate::prefetch::{Arrival, ArrivalOptions, Forgotten, Transform};
use crate::weights::Model;

/// What was asked for: the usual changes, ones of the caller's own, or none.
#[derive(Debug, Clone)]
pub(super) enum Changes {
    Nothing,
    Arrival(Arc<Arrival>),
    Own(Arc<dyn Transform>),
}

/// What [`StreamedModel::set_lora_strength`](super::StreamedModel::set_lora_strength) did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repatched {
    /// Resident tensors that were loaded and patched again.
    pub residents: usize,
    /// Streamed units that were in the ring, and are loaded and patched again for their next use.
    pub ring: Forgotten,
}

impl Changes {
    /// # Errors
    /// Both kinds at once; as [`Arrival::new`].
    pub(super) fn new(
        model: &Model,
        arrival: ArrivalOptions,
        own: Option<Arc<dyn Transform>>,
    ) -> Result<Self> {
        match (own, arrival.is_nothing()) {
            (None, true) => Ok(Self::Nothing),
            (None, false) => Ok(Self::Arrival(Arc::new(Arrival::new(model, arrival)?))),
            (Some(own), true) => Ok(Self::Own(own)),
            (Some(_), false) => Err(Error::invalid(
                "transform",
                "one of the caller's own beside 'arrival'",
                "give one of the two",
            )),
        }
    }

    /// As the loader and the ring take it.
    pub(super) fn transform(&self) -> Option<Arc<dyn Transform>> {
        match self {
            Self::Nothing => None,
            Self::Arrival(arrival) => Some(Arc::clone(arrival) as Arc<dyn Transform>),
            Self::Own(own) => Some(Arc::clone(own)),
        }
    }

    /// The usual changes, if they are what was asked for.
    pub(super) fn arrival(&self) -> Option<&Arc<Arrival>> {
        match self {
            Self::Arrival(arrival) => Some(arrival),
            _ => None,
        }
    }

    /// Bytes on the device beside the weights: factors of LoRAs.
    pub(super) fn device_bytes(&self) -> u64 {
        self.arrival().map_or(0, |arrival| arrival.device_bytes())
    }

    /// Takes what it needs to the device. Blocks.
    pub(super) fn settle(&self, allocator: &Allocator, pinned: &PinnedPool) -> Result<()> {
        self.arrival().map_or(Ok(()), |arrival| arrival.settle(allocator, pinned))
    }
}
