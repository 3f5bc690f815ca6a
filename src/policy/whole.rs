//! Any policy, with every segment handed out whole.

use super::contract::{Cached, Fit, Policy, Pressure, Request};
use crate::ledger::Ledger;

/// Places as another policy does and splits nothing: a request gets a whole segment. For memory
/// that is managed further by whoever asks for it.
#[derive(Debug)]
pub(crate) struct WholeSegments(pub(crate) Box<dyn Policy>);

impl Policy for WholeSegments {
    fn request(&self, requested_bytes: u64) -> Option<Request> {
        self.0.request(requested_bytes)
    }

    fn fit(&mut self, ledger: &Ledger, request: &Request) -> Option<Fit> {
        let Fit { block, .. } = self.0.fit(ledger, request)?;
        Some(Fit { block, take_bytes: ledger.get(block)?.bytes })
    }

    fn segment_bytes(&self, request: &Request) -> u64 {
        self.0.segment_bytes(request)
    }

    fn take_of_segment(&self, segment_bytes: u64, _request: &Request) -> u64 {
        segment_bytes
    }

    fn garbage(&mut self, cached: &[Cached], pressure: &Pressure) -> Vec<usize> {
        self.0.garbage(cached, pressure)
    }

    fn make_room(&mut self, cached: &[Cached], request: &Request) -> Vec<usize> {
        self.0.make_room(cached, request)
    }

    fn ages(&self, request: &Request) -> bool {
        self.0.ages(request)
    }

    fn repeats(&self) -> bool {
        self.0.repeats()
    }
}
