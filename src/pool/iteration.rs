//! Iterations, where the user marks them.

use super::allocator::{Allocator, Inner};
use super::expandable::Turn;
use crate::base::Result;
use crate::conf::PLANNED;

impl Allocator {
    /// Says that an iteration begins: what is asked for from now on is recorded, or served from
    /// what was planned. Only the `planned` policy makes use of it, and only of the default pool;
    /// it finds iterations by itself as long as nobody marks one. Call it where as little as
    /// possible is live that the iteration asked for, on one thread. An iteration that was not
    /// ended ends here. Never waits for a packing or a stream.
    ///
    /// ```
    /// use riverbed::device::{Device, Priority, Stream};
    /// use riverbed::pool::Allocator;
    ///
    /// let device = Device::open("host:vram=64MiB")?;
    /// let stream = Stream::new(&device, Priority::Normal)?;
    /// let allocator = Allocator::builder(&device).conf_str("policy:planned")?.build()?;
    /// for _ in 0..5 {
    ///     allocator.begin_iteration()?;
    ///     let activations = allocator.alloc::<f32>(100_000, &stream)?;
    ///     drop(activations);
    ///     allocator.end_iteration()?;
    /// }
    /// # Ok::<(), riverbed::Error>(())
    /// ```
    ///
    /// # Errors
    /// What the driver says where a plan comes into force; asked by a recorder from within the
    /// allocator.
    pub fn begin_iteration(&self) -> Result<()> {
        self.inner().turn(Turn::Begin)
    }

    /// Says that an iteration ends. Until the next [begins](Self::begin_iteration) nothing is
    /// recorded, and nothing served from what was planned.
    ///
    /// # Errors
    /// As [`begin_iteration`](Self::begin_iteration).
    pub fn end_iteration(&self) -> Result<()> {
        self.inner().turn(Turn::End)
    }

    /// Waits until what the `planned` policy is packing in the background is packed, if it is,
    /// and lets it come into force if this is a moment between two iterations. Only measurements
    /// and tests need it: iterations that take their time find the plan ready.
    ///
    /// # Errors
    /// As [`begin_iteration`](Self::begin_iteration).
    pub fn settle_plan(&self) -> Result<()> {
        self.inner().turn(Turn::Settle)
    }
}

impl Inner {
    fn turn(&self, turn: Turn) -> Result<()> {
        let shared = &self.shared;
        match &shared.expandable {
            Some(expandable) if !shared.captures.any() && shared.conf.policy() == PLANNED => {
                expandable.turn(shared, None, turn)
            }
            _ => Ok(()),
        }
    }
}
