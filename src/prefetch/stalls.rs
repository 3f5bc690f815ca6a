//! What a pass waited for: pure arithmetic on the times of its leases and loads.
//!
//! A pass runs from the moment its stream first asks for a unit to its end. Each unit's part is
//! cut in two: waiting for the unit, and the rest, which is compute. Waiting is laid over what the
//! copy stream the unit came by did meanwhile, which is one thing at a time; when it did nothing,
//! nothing had been asked of it, so the host was late. So the parts always add up to the pass.

use crate::transfer::Urgency;

/// How long a pass or a unit waited, by what for. In nanoseconds of device time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct StallCauses {
    /// For bytes to be read.
    pub disk_ns: u64,
    /// For a slot of the pinned window to read into.
    pub window_ns: u64,
    /// For bytes to cross the link, and transforms of them.
    pub link_ns: u64,
    /// For room in the ring.
    pub room_ns: u64,
    /// For the host to ask: nothing was enqueued.
    pub host_ns: u64,
}

impl StallCauses {
    /// All of it.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        self.disk_ns + self.window_ns + self.link_ns + self.room_ns + self.host_ns
    }

    /// Adds the waits of another.
    pub fn add(&mut self, other: &Self) {
        self.disk_ns += other.disk_ns;
        self.window_ns += other.window_ns;
        self.link_ns += other.link_ns;
        self.room_ns += other.room_ns;
        self.host_ns += other.host_ns;
    }
}

/// One lease's part of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct UnitStall {
    /// Number of the unit.
    pub unit: usize,
    /// From when the stream had it to when it asked for the next one, in nanoseconds, less what
    /// it then waited for the host.
    pub compute_ns: u64,
    /// How long it was waited for.
    #[serde(flatten)]
    pub causes: StallCauses,
}

/// Where the time of a pass went: `compute_ns` and the causes' total are `pass_ns`, exactly.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PassStalls {
    /// From the first unit asked for to the end of the stream, in nanoseconds of device time.
    pub pass_ns: u64,
    /// Of it, not spent waiting.
    pub compute_ns: u64,
    /// Of it, spent waiting.
    pub causes: StallCauses,
    /// Lease by lease, in the order they were asked for.
    pub units: Vec<UnitStall>,
}

/// Times of one lease, in nanoseconds from the start of the pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct WaitSpan {
    pub(super) unit: usize,
    /// Which copy stream the unit came by.
    pub(super) urgency: Urgency,
    pub(super) asked: u64,
    pub(super) ready: u64,
    /// When the stream had run dry before it asked, if it had.
    pub(super) dry_since: Option<u64>,
}

/// Times of one load on the copy stream, from the same moment on.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoadSpan {
    /// The copy stream came to it.
    pub(super) entered: u64,
    /// Its place was free.
    pub(super) roomed: u64,
    /// All was there.
    pub(super) loaded: u64,
    /// From `roomed` to `loaded`, also where that began before the pass.
    pub(super) moving_ns: u64,
    /// Of it, how much was copying.
    pub(super) link_ns: u64,
    /// How the rest is shared between reading and waiting for the window: parts of their sum.
    pub(super) disk_share: u64,
    pub(super) window_share: u64,
}

/// The loads of each copy stream, in its order.
#[derive(Debug, Default)]
pub(super) struct Loads {
    pub(super) ahead: Vec<LoadSpan>,
    pub(super) demand: Vec<LoadSpan>,
}

/// Where the time went of a pass that ended at `end`, and whose stream had then been dry since
/// `dry_since`, if it had. Leases are in the order they asked.
pub(super) fn attribute(
    waits: &[WaitSpan],
    loads: &Loads,
    end: u64,
    dry_since: Option<u64>,
) -> PassStalls {
    let Some(first) = waits.first() else { return PassStalls::default() };
    let mut stalls = PassStalls { pass_ns: end.saturating_sub(first.asked), ..Default::default() };
    for (at, wait) in waits.iter().enumerate() {
        let (until, dry_since) =
            waits.get(at + 1).map_or((end, dry_since), |next| (next.asked, next.dry_since));
        let late_ns = dry_since.map_or(0, |dry| until.saturating_sub(dry.max(wait.ready)));
        let loads = match wait.urgency {
            Urgency::Ahead => &loads.ahead,
            Urgency::Demand => &loads.demand,
        };
        let mut causes = causes_of(wait, loads);
        causes.host_ns += late_ns;
        let compute_ns = until.saturating_sub(wait.ready).saturating_sub(late_ns);
        stalls.compute_ns += compute_ns;
        stalls.causes.add(&causes);
        stalls.units.push(UnitStall { unit: wait.unit, compute_ns, causes });
    }
    stalls
}

/// What the copy stream did while a unit was waited for.
fn causes_of(wait: &WaitSpan, loads: &[LoadSpan]) -> StallCauses {
    let mut causes = StallCauses::default();
    let within = |from: u64, to: u64| to.min(wait.ready).saturating_sub(from.max(wait.asked));
    let first = loads.partition_point(|load| load.loaded <= wait.asked);
    for load in loads[first..].iter().take_while(|load| load.entered < wait.ready) {
        causes.room_ns += within(load.entered, load.roomed);
        let moving_ns = within(load.roomed, load.loaded);
        let link_ns = share(moving_ns, load.link_ns, load.moving_ns);
        let shares = load.disk_share.saturating_add(load.window_share);
        let window_ns = share(moving_ns - link_ns, load.window_share, shares);
        causes.link_ns += link_ns;
        causes.window_ns += window_ns;
        causes.disk_ns += moving_ns - link_ns - window_ns;
    }
    let waited_ns = wait.ready.saturating_sub(wait.asked);
    causes.host_ns = waited_ns.saturating_sub(causes.total_ns());
    causes
}

/// `part` of `whole` of `ns`, at most all of it.
fn share(ns: u64, part: u64, whole: u64) -> u64 {
    let ns_of = u128::from(ns) * u128::from(part.min(whole)) / u128::from(whole.max(1));
    u64::try_from(ns_of).unwrap_or(ns)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wait(unit: usize, asked: u64, ready: u64) -> WaitSpan {
        WaitSpan { unit, urgency: Urgency::Ahead, asked, ready, dry_since: None }
    }

    #[test]
    fn each_cause_gets_what_the_copy_stream_did() {
        let load = LoadSpan {
            entered: 10,
            roomed: 30,
            loaded: 130,
            moving_ns: 100,
            link_ns: 40,
            disk_share: 2,
            window_share: 1,
        };
        let stalls = attribute(
            &[wait(7, 0, 130)],
            &Loads { ahead: vec![load], ..Loads::default() },
            200,
            None,
        );
        let causes =
            StallCauses { host_ns: 10, room_ns: 20, link_ns: 40, disk_ns: 40, window_ns: 20 };
        assert_eq!(stalls.units, [UnitStall { unit: 7, compute_ns: 70, causes }]);
        assert_eq!(stalls.pass_ns, 200);
    }

    #[test]
    fn a_stream_that_ran_dry_waited_for_the_host() {
        let second = WaitSpan { dry_since: Some(60), ..wait(1, 100, 100) };
        let stalls = attribute(&[wait(0, 0, 0), second], &Loads::default(), 150, Some(140));
        let of = |unit: usize| (stalls.units[unit].compute_ns, stalls.units[unit].causes.host_ns);
        assert_eq!((of(0), of(1)), ((60, 40), (40, 10)));
    }

    proptest! {
        #[test]
        fn compute_and_stalls_are_the_pass(
            steps in proptest::collection::vec(
                (0..50u64, 0..50u64, any::<bool>(), any::<bool>()), 1..20),
            ahead in proptest::collection::vec([0..60u64, 0..60, 0..60, 0..60, 0..9, 0..9], 0..20),
            demand in proptest::collection::vec([0..60u64, 0..60, 0..60, 0..60, 0..9, 0..9], 0..9),
            dry in any::<bool>(),
        ) {
            let mut now = 5;
            let mut waits = Vec::new();
            for (unit, (compute, stall, dry, demanded)) in steps.into_iter().enumerate() {
                let dry_since = dry.then_some(now + compute / 2);
                let asked = now + compute;
                now = asked + stall;
                let urgency = if demanded { Urgency::Demand } else { Urgency::Ahead };
                waits.push(WaitSpan { unit, urgency, asked, ready: now, dry_since });
            }
            let spans = |loads: Vec<[u64; 6]>| {
                let mut at = 0;
                loads.into_iter().map(|[idle, room, moving, link, disk, window]| {
                    let (entered, roomed) = (at + idle, at + idle + room);
                    at = roomed + moving;
                    LoadSpan {
                        entered, roomed, loaded: at, moving_ns: moving,
                        link_ns: link, disk_share: disk, window_share: window,
                    }
                }).collect()
            };
            let spans = Loads { ahead: spans(ahead), demand: spans(demand) };
            let end = now + 30;
            let stalls = attribute(&waits, &spans, end, dry.then_some(now + 10));
            prop_assert_eq!(stalls.pass_ns, end - waits[0].asked);
            prop_assert_eq!(stalls.compute_ns + stalls.causes.total_ns(), stalls.pass_ns);
            let mut of_units = StallCauses::default();
            stalls.units.iter().for_each(|unit| of_units.add(&unit.causes));
            prop_assert_eq!(of_units, stalls.causes);
        }
    }
}
