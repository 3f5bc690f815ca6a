//! Several models through one ring, one after the other.

use std::sync::Arc;

use riverbed::Error;
use riverbed::device::Device;
use riverbed::offload::{StreamOptions, StreamedModel};
use riverbed::weights::{Grouping, Model};

use super::streaming::{Content, MIB, ends, stream};

#[test]
fn components_of_a_pipeline_follow_each_other_through_one_ring() {
    ends(|| {
        let encoder = Content::layers(&[&[700_000], &[600_000], &[500_000]]);
        let transformer = Content::new(&[&[900_000, 3], &[800_000], &[1_000_000]], &[5_000]);
        // In the order of their use, which is not that of their names.
        let names = ["transformer", "encoder"];
        let parts = [(names[0], &*transformer.model), (names[1], &*encoder.model)];
        let model = Arc::new(Model::join(&parts).unwrap());
        let bytes = encoder.model.total_bytes() + transformer.model.total_bytes();
        assert_eq!((model.total_bytes(), model.files().len()), (bytes, 2));
        let order = ["encoder", "transformer"];
        let grouping = Grouping::by_preset(&model).unwrap().by_component(&order);
        let device = Device::open("host:vram=64MiB").unwrap();
        let options = StreamOptions::new(6 * MIB);
        let streamed =
            StreamedModel::load(&device, Arc::clone(&model), &grouping, options).unwrap();
        let names: Vec<_> = streamed.units().iter().map(|unit| &unit.name[..]).collect();
        let wanted: Vec<String> = order
            .iter()
            .flat_map(|component| (0..3).map(move |layer| format!("{component}.layers.{layer}")))
            .collect();
        assert_eq!(names, wanted);
        let stream = stream(&device);
        for _ in 0..3 {
            for unit in 0..names.len() {
                let lease = streamed.acquire(unit, &stream).unwrap();
                let view = lease.wait_host().unwrap();
                for tensor in lease.tensors() {
                    let (component, name) = tensor.name.split_once('.').unwrap();
                    let content = if component == "encoder" { &encoder } else { &transformer };
                    assert!(view.bytes(tensor.name).unwrap() == content.bytes[name]);
                }
            }
            streamed.finish_pass(&stream).unwrap().into_result().unwrap();
        }
        let stats = streamed.prefetcher().stats();
        assert_eq!(stats.demand_loads, 1, "the next component is loaded ahead of its use");
        streamed.prefetcher().check().unwrap();
    });
}

#[test]
fn components_that_cannot_be_told_apart_are_refused() {
    let content = Content::layers(&[&[10]]);
    let twice = [("a", &*content.model), ("a", &*content.model)];
    let error = Model::join(&twice).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    assert!(Model::join(&[]).is_err());
}
