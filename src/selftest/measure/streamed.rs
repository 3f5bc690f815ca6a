//! A pass of a streamed model whose layers compute for as long as they take to arrive, against
//! the longer of the two.

use std::sync::Arc;

use super::Meter;
use crate::base::{Error, MIB};
use crate::conf::Conf;
use crate::device::Stream;
use crate::offload::{StreamOptions, StreamedModel};
use crate::selftest::finding::Finding;
use crate::selftest::lab::{Found, Lab};
use crate::selftest::scratch::ScratchModel;
use crate::weights::{Grouping, Model};

const LAYERS: usize = 12;
const PASS: &str = "pass of max(compute, copies)";
const LINK: &str = "link rate of a pass";

pub(super) fn measure(lab: &Lab, meter: &mut Meter<'_>) -> Result<Option<&'static str>, Finding> {
    if lab.info().simulated {
        return Ok(Some("files are read in real time, and the device's is virtual"));
    }
    lab.gives_back_later();
    let layer_bytes = meter.either(32 * MIB, 2 * MIB).min(lab.free_bytes()? / 16 / MIB * MIB);
    if layer_bytes == 0 {
        return Ok(Some("the device is too full"));
    }
    let scratch = ScratchModel::write(LAYERS, layer_bytes as usize).map_err(Error::from)?;
    let model = Arc::new(Model::open(scratch.path())?);
    let grouping = Grouping::by_preset(&model)?;
    let mut options = StreamOptions::new(6 * layer_bytes + 4 * lab.page_bytes());
    options.working_bytes = 0;
    let room = 2 * LAYERS as u64 * layer_bytes + 64 * MIB;
    options.conf = Conf::default().with_pinned_limit_bytes(room)?;
    let streamed = StreamedModel::load(lab.device(), model, &grouping, options)?;
    let stream = lab.stream()?;
    let rate = meter.figures.h2d_gb_per_s.filter(|rate| *rate > 0.0).unwrap_or(10.0);
    let layer_ns = (layer_bytes as f64 / rate) as u64;
    // The first pass reads the file.
    pass(&streamed, &stream, layer_ns)?;
    let mut series = meter.series("streamed pass");
    while series.goes_on(meter) {
        let before = streamed.prefetcher().stats();
        let (start, end) = (lab.timed_event()?, lab.timed_event()?);
        start.record(&stream)?;
        pass(&streamed, &stream, layer_ns)?;
        end.record(&stream)?;
        lab.sync(&stream)?;
        let after = streamed.prefetcher().stats();
        let copies = after.copy_busy_ns.saturating_sub(before.copy_busy_ns);
        let bytes = after.bytes_moved.saturating_sub(before.bytes_moved);
        let compute = streamed.units().len() as u64 * layer_ns;
        let took = end.elapsed_ns_since(&start)?;
        series.add(PASS, "x", took as f64 / compute.max(copies).max(1) as f64);
        series.add(LINK, "GB/s", bytes as f64 / copies.max(1) as f64);
    }
    meter.figures.streamed_ratio = Some(series.median(PASS));
    meter.figures.streamed_gb_per_s = Some(series.median(LINK));
    series.finish(meter);
    Ok(None)
}

fn pass(streamed: &StreamedModel, stream: &Stream, layer_ns: u64) -> Found {
    for unit in 0..streamed.units().len() {
        let lease = streamed.acquire(unit, stream)?;
        lease.stream().busy(layer_ns)?;
    }
    streamed.finish_pass(stream)?.into_result()?;
    Ok(())
}
