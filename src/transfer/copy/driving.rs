//! Who goes on with copies that are held back: a thread for each lane, or whoever drives.

use std::sync::{Arc, MutexGuard};

use super::insist::{ASK_AGAIN, insist};
use super::lane::{Lane, Mark};
use super::queue::{LaneId, Queue, State};
use crate::base::{Error, Result, lock, wait};
use crate::device::Event;
use crate::transfer::Urgency;

impl Queue {
    /// Makes sure somebody looks after a lane.
    pub(super) fn look_after(self: &Arc<Self>, state: &mut State, id: LaneId) -> Result<()> {
        let by_caller = self.is_driven_by_caller();
        let lane = self.lane(state, id)?;
        if by_caller || lane.has_thread {
            return Ok(());
        }
        let queue = Arc::clone(self);
        // Never joined: it ends when the transfer is gone and nothing is held back any more.
        std::thread::Builder::new()
            .name(format!("riverbed-{}", id.name()))
            .spawn(move || queue.work(id))
            .map_err(|error| {
                let expected = format!("the system refuses a thread: {error}");
                Error::invalid("copies held back", id.name(), expected)
            })?;
        lane.has_thread = true;
        Ok(())
    }

    /// Looks after one lane, on a thread of its own.
    fn work(&self, id: LaneId) {
        let mut state = lock(&self.state);
        loop {
            let closed = state.closed;
            let Some(lane) = &mut state.lanes[id.index()] else { return };
            let was_busy = lane.is_busy();
            let oldest = if was_busy { lane.oldest().cloned() } else { None };
            match oldest {
                Some(Mark::At(mark)) => {
                    drop(state);
                    insist(|| mark.synchronize());
                    state = lock(&self.state);
                    self.land(&mut state, id, &mark);
                }
                Some(Mark::Here) => self.land_next(&mut state, id),
                Some(Mark::Refused(_)) => {
                    if !lane.mark_again() {
                        drop(state);
                        std::thread::sleep(ASK_AGAIN);
                        state = lock(&self.state);
                    }
                }
                None if closed && !lane.is_busy() => {
                    lane.has_thread = false;
                    return;
                }
                None => {
                    state.sleepers += 1;
                    state = wait(&self.moved, state);
                    state.sleepers -= 1;
                }
            }
            let is_busy = state.lanes[id.index()].as_ref().is_some_and(Lane::is_busy);
            // Who stands back for a lane is told when it is done, too.
            let moved = self.submit(&mut state) || (was_busy && !is_busy);
            state = self.tell(state, moved);
        }
    }

    /// True while copies of demand are on their way that were held back and wait for nothing but
    /// the link. Where the caller drives nobody stands back for them: he may be waiting himself.
    pub(super) fn has_demand_under_way(&self) -> bool {
        !self.is_driven_by_caller() && self.gives_way(&mut lock(&self.state), Urgency::Ahead)
    }

    /// Waits for those copies, for whoever copies ahead of need outside the lanes.
    pub(super) fn let_demand_pass(&self) {
        let mut state = lock(&self.state);
        while !self.is_driven_by_caller() && self.gives_way(&mut state, Urgency::Ahead) {
            state.sleepers += 1;
            state = wait(&self.moved, state);
            state.sleepers -= 1;
        }
    }

    /// Takes the flight out that ends at `mark`, unless somebody has.
    fn land(&self, state: &mut State, id: LaneId, mark: &Arc<Event>) {
        let lane = state.lanes[id.index()].as_ref();
        let oldest = lane.and_then(Lane::oldest);
        if matches!(oldest, Some(Mark::At(oldest)) if Arc::ptr_eq(oldest, mark)) {
            self.land_next(state, id);
        }
    }

    fn land_next(&self, state: &mut State, id: LaneId) {
        let State { lanes, ended, .. } = state;
        if let Some(lane) = &mut lanes[id.index()] {
            self.learn(lane.land(ended));
        }
    }

    /// Wakes whoever looks after lanes.
    pub(super) fn wake(&self, state: MutexGuard<'_, State>) {
        let asleep = state.sleepers > 0;
        drop(state);
        if asleep {
            self.moved.notify_all();
        }
    }

    /// Tells of copies that ended, with nothing locked, and wakes the others if anything moved.
    fn tell<'a>(&'a self, mut state: MutexGuard<'a, State>, moved: bool) -> MutexGuard<'a, State> {
        let ended = std::mem::take(&mut state.ended);
        if ended.is_empty() && !moved {
            return state;
        }
        if moved {
            self.wake(state);
        } else {
            drop(state);
        }
        ended.into_iter().for_each(|(request, outcome)| request.finish(outcome));
        lock(&self.state)
    }

    /// Goes on with copies held back as far as that is possible without waiting; true while
    /// there are any.
    pub(super) fn drive(&self) -> bool {
        let mut state = lock(&self.state);
        if self.is_driven_by_caller() {
            let State { lanes, ended, .. } = &mut *state;
            for lane in lanes.iter_mut().flatten().filter(|lane| lane.is_busy()) {
                self.learn(lane.land_reached(ended));
            }
            let moved = self.submit(&mut state);
            state = self.tell(state, moved);
        }
        state.lanes.iter().flatten().any(Lane::is_busy)
    }

    /// Lets the threads end once nothing is held back.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        self.wake(state);
    }
}
