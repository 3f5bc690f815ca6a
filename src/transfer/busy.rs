//! How long the link was busy: a pair of timing events around each copy.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::reader::LoadStatus;
use crate::base::Result;
use crate::device::{Device, Event, Stream};

/// Pairs of events, used again and again.
#[derive(Debug, Default)]
pub(super) struct BusyClock {
    idle: Vec<(Event, Event)>,
    /// With the loads they are of.
    running: VecDeque<((Event, Event), Arc<LoadStatus>)>,
    busy_ns: u64,
}

impl BusyClock {
    /// Makes sure `pairs` copies can be under way without another event being made.
    pub(super) fn reserve(&mut self, device: &Device, pairs: usize) -> Result<()> {
        while self.idle.len() + self.running.len() < pairs {
            self.idle.push(Self::pair(device)?);
        }
        Ok(())
    }

    /// Times what `copy` enqueues on `stream` for a load.
    pub(super) fn time(
        &mut self,
        stream: &Stream,
        load: &Arc<LoadStatus>,
        copy: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.harvest();
        let pair = match self.idle.pop() {
            Some(pair) => pair,
            None => Self::pair(stream.device())?,
        };
        pair.0.record(stream)?;
        copy()?;
        pair.1.record(stream)?;
        self.running.push_back((pair, Arc::clone(load)));
        Ok(())
    }

    /// Nanoseconds of device time spent in copies that are done.
    pub(super) fn busy_ns(&mut self) -> u64 {
        self.harvest();
        self.busy_ns
    }

    fn harvest(&mut self) {
        while let Some((pair, load)) = self.running.pop_front() {
            match pair.1.query() {
                Ok(true) => {
                    let ns = pair.1.elapsed_ns_since(&pair.0).unwrap_or(0);
                    self.busy_ns += ns;
                    load.steps().link_ns.fetch_add(ns, Ordering::Relaxed);
                    self.idle.push(pair);
                }
                _ => {
                    self.running.push_front((pair, load));
                    return;
                }
            }
        }
    }

    fn pair(device: &Device) -> Result<(Event, Event)> {
        Ok((Event::with_timing(device)?, Event::with_timing(device)?))
    }
}
