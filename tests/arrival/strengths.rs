//! Strengths that change between passes.

use std::sync::Arc;

use riverbed::offload::StreamedModel;

use crate::loras::{Factors, KOHYA, MODULES, PEFT, lora, model, patched};
use crate::streaming::{MIB, assert_says, stream};
use crate::world::{bf16_bytes, load, shown};

#[test]
fn a_strength_takes_effect_at_the_next_load_and_nothing_of_zero_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path(), "BF16");
    let one = [Factors::new(1, 0, 4, Some(2.0), "F16"), Factors::new(2, 4, 2, None, "F16")];
    let two = [Factors::new(3, 0, 8, None, "F16"), Factors::new(4, 2, 3, Some(3.0), "F16")];
    let loras = [
        (Arc::new(lora(&folder.path().join("one.safetensors"), &one, "F16", KOHYA)), 1.0),
        (Arc::new(lora(&folder.path().join("two.safetensors"), &two, "F16", PEFT)), 1.0),
    ];
    let mut streamed = load(&path, 6 * MIB, |options| options.arrival.loras.extend(loras)).unwrap();
    let check = |streamed: &StreamedModel, strengths: [f32; 2]| {
        let found = shown(streamed);
        for (module, (name, ..)) in MODULES.into_iter().enumerate() {
            let wanted = patched(module, "BF16", &[(&one, strengths[0]), (&two, strengths[1])]);
            let found = &found[&format!("{name}.weight")];
            assert!(found.bytes == bf16_bytes(&wanted), "{name} at {strengths:?}");
        }
    };
    check(&streamed, [1.0, 1.0]);
    // Everything fits into the ring, so that nothing is loaded again but for a reason.
    let loads = streamed.prefetcher().stats().loads;
    assert_eq!(loads, 2);
    let done = streamed.set_lora_strength("one", -0.5).unwrap();
    assert_eq!((done.residents, done.ring.units, done.ring.leased), (1, 1, 0));
    check(&streamed, [-0.5, 1.0]);
    assert_eq!(streamed.prefetcher().stats().loads, loads + 1);
    let done = streamed.set_lora_strength("two", 0.0).unwrap();
    assert_eq!((done.residents, done.ring.units), (0, 2));
    check(&streamed, [-0.5, 0.0]);
    assert_eq!(streamed.set_lora_strength("two", 0.0).unwrap(), Default::default());
    streamed.set_lora_strength("one", 0.0).unwrap();
    let patched = streamed.arrival().unwrap().stats().patched;
    check(&streamed, [0.0, 0.0]);
    assert_eq!(streamed.arrival().unwrap().stats().patched, patched, "none is left to add");
    streamed.set_lora_strength("two", 2.0).unwrap();
    check(&streamed, [0.0, 2.0]);
    let strengths = streamed.arrival().unwrap().strengths();
    assert_eq!(strengths, [("one".to_owned(), 0.0), ("two".to_owned(), 2.0)]);
}

#[test]
fn units_that_are_leased_stay_as_they_are_and_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path(), "F32");
    let of = [Factors::new(1, 0, 4, None, "F32"), Factors::new(1, 2, 4, None, "F32")];
    let lora = Arc::new(lora(&folder.path().join("one.safetensors"), &of, "F32", PEFT));
    let mut streamed =
        load(&path, 6 * MIB, |options| options.arrival.loras.push((lora, 1.0))).unwrap();
    let stream = stream(streamed.allocator().device());
    let lease = streamed.acquire(0, &stream).unwrap();
    let done = streamed.set_lora_strength("one", 2.0).unwrap();
    assert_eq!((done.ring.units, done.ring.leased), (1, 1));
    drop(lease);
    let error = streamed.set_lora_strength("three", 2.0).unwrap_err().to_string();
    assert_says(&error, &["three", "one"]);
    let error = streamed.set_lora_strength("one", f32::NAN).unwrap_err().to_string();
    assert_says(&error, &["strength of one", "NaN", "finite"]);
}
