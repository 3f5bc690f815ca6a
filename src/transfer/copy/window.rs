//! What goes to the device next, and when: the window of a direction, in which copies of demand go
//! before those made ahead of need.

use super::lane::Lane;
use super::queue::{LaneId, Queue, State};
use crate::transfer::Urgency;

/// The most chunks' worth of one lane with the device: one runs, one is next, one covers a late
/// thread.
const CHUNKS_AHEAD: u64 = 3;
/// The most copies of one lane with the device, each with its mark.
const MOST_FLIGHTS: u64 = 64;

impl Queue {
    /// Whether a copy may go to the device whole and now.
    pub(super) fn has_room(
        &self,
        state: &mut State,
        urgency: Urgency,
        bytes: u64,
        chunk_bytes: u64,
    ) -> bool {
        let held = |urgency: Urgency| {
            let lane = state.lanes[LaneId::Of(urgency).index()].as_ref();
            lane.is_some_and(Lane::holds_back)
        };
        if held(urgency) || (urgency == Urgency::Ahead && held(Urgency::Demand)) {
            return false;
        }
        let chunks = bytes.div_ceil(chunk_bytes.max(1));
        self.fits(state, urgency, bytes, chunk_bytes, chunks)
    }

    /// Whether the window has room for so much more of a lane: three chunks a lane at most, one
    /// left for the other lane, and in all what may be in flight. The first chunk always fits.
    fn fits(
        &self,
        state: &mut State,
        urgency: Urgency,
        bytes: u64,
        chunk_bytes: u64,
        chunks: u64,
    ) -> bool {
        let most = self.options.in_flight();
        let room = |state: &State| {
            let lane = state.lanes[LaneId::Of(urgency).index()].as_ref();
            let (own, flights) = lane.map_or((0, 0), |it| (it.in_flight_bytes(), it.flights()));
            if own == 0 && chunks <= 1 {
                return true;
            }
            let lane_most = (CHUNKS_AHEAD * chunk_bytes).min(most.saturating_sub(chunk_bytes));
            let in_lane =
                flights as u64 + chunks <= MOST_FLIGHTS && own.saturating_add(bytes) <= lane_most;
            let all: u64 = state.lanes.iter().flatten().map(Lane::in_flight_bytes).sum();
            in_lane && all.saturating_add(bytes) <= most
        };
        if room(state) {
            return true;
        }
        // Lanes in which nobody waits for anything are looked at only when room is short.
        let State { lanes, ended, .. } = state;
        for lane in lanes.iter_mut().flatten().filter(|lane| !lane.is_busy()) {
            self.learn(lane.land_reached(ended));
        }
        room(state)
    }

    /// Gives the device what there is room for; true if that was anything.
    pub(super) fn submit(&self, state: &mut State) -> bool {
        let chunk_bytes = self.chunk_bytes();
        let mut moved = false;
        for urgency in Urgency::ALL {
            let index = LaneId::Of(urgency).index();
            loop {
                let lane = state.lanes[index].as_ref();
                let Some(bytes) = lane.and_then(|lane| lane.next_bytes(chunk_bytes)) else { break };
                if bytes > 0
                    && (self.gives_way(state, urgency)
                        || !self.fits(state, urgency, bytes, chunk_bytes, 1))
                {
                    break;
                }
                if let Some(lane) = &mut state.lanes[index] {
                    let (bytes, copies) = lane.submit(chunk_bytes, &self.events);
                    self.submitted(bytes, copies);
                    moved = true;
                }
            }
        }
        moved
    }

    /// Speculation stands back while demand is on its way. Demand that still waits for something
    /// may be waiting for speculation, so only demand that waits for the link alone counts.
    pub(super) fn gives_way(&self, state: &mut State, urgency: Urgency) -> bool {
        let demand = &mut state.lanes[LaneId::Of(Urgency::Demand).index()];
        urgency == Urgency::Ahead
            && demand.as_mut().is_some_and(|lane| lane.is_running(&self.events))
    }
}
