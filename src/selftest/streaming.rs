//! The main job: a model's layers through a hard limit, every byte of every pass.

use std::sync::Arc;

use crate::base::{Error, KIB, MIB};
use crate::conf::Conf;
use crate::offload::{StreamOptions, StreamedModel};
use crate::pool::{Allocator, Buffer};
use crate::selftest::check::checks;
use crate::selftest::finding::{Finding, ensure};
use crate::selftest::lab::{Found, Lab};
use crate::selftest::scratch::ScratchModel;
use crate::transfer::Transfer;
use crate::weights::{Grouping, Model};

checks! { "streaming":
    a_model_streams_through_a_limit_whole [Bytes],
    a_model_streams_without_prefetch_whole [Bytes],
    a_model_that_does_not_stay_in_ram_streams_whole [Bytes],
}

const LAYERS: usize = 8;
const PASSES: usize = 2;

fn a_model_streams_through_a_limit_whole(lab: &Lab) -> Found {
    stream(lab, |options| options.prefetch.depth = 4)
}

fn a_model_streams_without_prefetch_whole(lab: &Lab) -> Found {
    stream(lab, |options| options.prefetch.depth = 0)
}

fn a_model_that_does_not_stay_in_ram_streams_whole(lab: &Lab) -> Found {
    stream(lab, |options| options.prefetch.keep_in_ram = false)
}

fn stream(lab: &Lab, set: impl FnOnce(&mut StreamOptions)) -> Found {
    lab.gives_back_later();
    // Two layers to a page, or a few pages to a layer.
    let layer_bytes = (lab.page_bytes() / 2).max(128 * KIB);
    // Room for two layers and for what is in none, of eight.
    let limit = (2 * layer_bytes + 2 * KIB).next_multiple_of(lab.page_bytes())
        + (128 * KIB).next_multiple_of(lab.page_bytes());
    let scratch = ScratchModel::write(LAYERS, layer_bytes as usize).map_err(Error::from)?;
    let model = Arc::new(Model::open(scratch.path())?);
    let grouping = Grouping::by_preset(&model)?;
    ensure!(limit < model.total_bytes(), "a model of {} bytes needs no limit", model.total_bytes());
    let mut options = StreamOptions::new(limit);
    options.working_bytes = 0;
    options.conf = Conf::default().with_pinned_limit_bytes(64 * MIB)?;
    set(&mut options);
    let streamed = StreamedModel::load(lab.device(), model, &grouping, options)?;
    let names: Vec<&str> = scratch.sums.iter().map(|(name, _)| name.as_str()).collect();
    let transfer = Transfer::new(lab.device())?;
    let stream = lab.stream()?;
    // Not of the model's allocator, whose limit is for weights alone.
    let sums = Allocator::builder(lab.device()).build()?.alloc::<u64>(names.len(), &stream)?;
    for number in 1..=PASSES {
        sums.fill(0xff, &stream)?;
        pass(&streamed, &names, &sums, &stream)?;
        let found = transfer.read(&sums, streamed.pinned())?;
        for ((name, expected), found) in scratch.sums.iter().zip(found) {
            ensure!(found == *expected, "pass {number}: '{name}' is not what the file has");
        }
    }
    let peak = streamed.allocator().stats().reserved_bytes.all.peak;
    ensure!(peak <= limit, "{peak} bytes were reserved under a limit of {limit}");
    Ok(())
}

/// One pass: a checksum of every tensor, into the slot of its name.
fn pass(
    streamed: &StreamedModel,
    names: &[&str],
    sums: &Buffer<u64>,
    stream: &crate::device::Stream,
) -> Found {
    let slot = |name: &str| {
        let slot = names.iter().position(|other| *other == name);
        slot.ok_or_else(|| Finding::new(format!("'{name}' is not in the model")))
    };
    for unit in 0..streamed.units().len() {
        let lease = streamed.acquire(unit, stream)?;
        for tensor in lease.tensors() {
            lease.checksum(tensor.name, sums, slot(tensor.name)?)?;
        }
    }
    for &tensor in &streamed.placement().residents {
        let tensor = &streamed.model().tensors()[tensor];
        let range = 0..tensor.len_bytes;
        if let Some(residents) = streamed.residents() {
            residents.checksum(&tensor.name, range, sums, slot(&tensor.name)?, stream)?;
        }
    }
    streamed.finish_pass(stream)?.into_result()?;
    Ok(())
}
