//! What single driver calls cost the host.

use super::Meter;
use crate::device::{Call, Event, Stream};
use crate::selftest::finding::Finding;
use crate::selftest::lab::{Found, Lab};

/// Calls timed at once: few enough for the queue of any driver.
const BATCH: usize = 64;

pub(super) fn measure(lab: &Lab, meter: &mut Meter<'_>) -> Result<Option<&'static str>, Finding> {
    let mut series = meter.series("calls");
    let mut costs: Vec<(Call, f64)> = Vec::new();
    while series.goes_on(meter) {
        let mut round = Round { lab, meter, costs: Vec::new() };
        round.streams()?;
        round.events()?;
        round.gates()?;
        round.launches()?;
        for (call, ns) in round.costs {
            series.add(call.name(), "us", ns / 1e3);
            if !costs.iter().any(|(other, _)| *other == call) {
                costs.push((call, ns));
            }
        }
    }
    for (call, _) in costs {
        meter.figures.call(call, 0, series.median(call.name()) * 1e3);
    }
    series.finish(meter);
    Ok(None)
}

/// One timing of each call.
struct Round<'a> {
    lab: &'a Lab,
    meter: &'a Meter<'a>,
    costs: Vec<(Call, f64)>,
}

impl Round<'_> {
    fn time(&mut self, call: Call, count: usize, mut work: impl FnMut() -> Found) -> Found {
        let ns = self.meter.each_ns(count, || (0..count).try_for_each(|_| work()))?;
        self.costs.push((call, ns));
        Ok(())
    }

    fn streams(&mut self) -> Found {
        let lab = self.lab;
        let mut streams: Vec<Stream> = Vec::new();
        self.time(Call::CreateStream, 4, || {
            streams.push(lab.stream()?);
            Ok(())
        })?;
        let stream = lab.stream()?;
        self.time(Call::SynchronizeStream, BATCH, || lab.sync(&stream))?;
        lab.drop_idle(stream);
        self.time(Call::DestroyStream, 4, || {
            streams.pop().into_iter().for_each(|stream| lab.drop_idle(stream));
            Ok(())
        })
    }

    fn events(&mut self) -> Found {
        let lab = self.lab;
        let (stream, other) = (lab.stream()?, lab.stream()?);
        let mut events: Vec<Event> = Vec::with_capacity(BATCH);
        self.time(Call::CreateEvent, BATCH, || {
            events.push(lab.event()?);
            Ok(())
        })?;
        let event = lab.timed_event()?;
        self.time(Call::RecordEvent, BATCH, || Ok(event.record(&stream)?))?;
        self.time(Call::WaitEvent, BATCH, || Ok(other.wait(&event)?))?;
        lab.sync(&stream)?;
        lab.sync(&other)?;
        self.time(Call::QueryEvent, BATCH, || Ok(event.query().map(drop)?))?;
        self.time(Call::SynchronizeEvent, BATCH, || lab.reach(&event))?;
        self.time(Call::Elapsed, BATCH, || Ok(event.elapsed_ns_since(&event).map(drop)?))?;
        self.time(Call::DestroyEvent, BATCH, || {
            events.pop();
            Ok(())
        })?;
        lab.drop_idle(stream);
        lab.drop_idle(other);
        Ok(())
    }

    fn gates(&mut self) -> Found {
        let lab = self.lab;
        let stream = lab.stream()?;
        let mut gates = Vec::with_capacity(BATCH);
        self.time(Call::CreateGate, BATCH, || {
            gates.push(lab.gate()?);
            Ok(())
        })?;
        let gate = lab.gate()?;
        let mut value = 0;
        self.time(Call::OpenGate, BATCH, || {
            value += 1;
            gate.open(value)
        })?;
        self.time(Call::WaitGate, BATCH, || gate.hold(&stream, 1))?;
        lab.sync(&stream)?;
        gate.give_up()?;
        self.time(Call::DestroyGate, BATCH, || gates.pop().map_or(Ok(()), |gate| gate.give_up()))?;
        lab.drop_idle(stream);
        Ok(())
    }

    fn launches(&mut self) -> Found {
        let lab = self.lab;
        let stream = lab.stream()?;
        self.time(Call::Launch, BATCH, || Ok(stream.busy(0)?))?;
        lab.sync(&stream)?;
        self.time(Call::LaunchHost, BATCH, || Ok(stream.launch_host(Box::new(|| ()))?))?;
        lab.sync(&stream)?;
        lab.drop_idle(stream);
        Ok(())
    }
}
