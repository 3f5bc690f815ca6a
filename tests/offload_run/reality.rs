//! A plan that does not agree with what there is is refused, with the differences.

use riverbed::plan::{Plan, Rules};

use super::job::{budgets, job, model, options, planned, weights};
use super::streaming::{Content, MIB, assert_says, host};

fn plan_of(content: &Content) -> Plan {
    planned(&job(content, 2), budgets(18 * MIB, 2 * MIB), &Rules::auto())
}

#[track_caller]
fn refused(content: &Content, change: impl FnOnce(&mut Plan), words: &[&str]) {
    let (device, _) = host(64);
    let mut plan = plan_of(content);
    change(&mut plan);
    let error = plan.load(&device, &[weights("model", content)], options()).unwrap_err();
    assert_says(&error.to_string(), words);
    assert!(riverbed::device::settle(std::time::Duration::from_secs(10)));
    let memory = device.memory().unwrap();
    assert_eq!(memory.free_bytes, memory.total_bytes, "everything was given back");
}

#[test]
fn differences_are_named() {
    let content = model();
    let words = ["layers.1", "bytes in the plan"];
    refused(&content, |plan| plan.phases[0].plan.units[1].bytes += 256, &words);
    refused(
        &content,
        |plan| plan.phases[0].plan.units[1].made_of.units = 90..91,
        &["0", "tensor(s) are not in exactly one unit"],
    );
    let partly = |plan: &mut Plan| {
        let units = &mut plan.phases[0].plan.units;
        let unit = units.iter_mut().find(|unit| !unit.resident_parts.is_empty()).unwrap();
        unit.resident_parts.push(99);
    };
    refused(&content, partly, &["part 99", "it has"]);
    let sliced = |plan: &mut Plan| {
        let unit = &mut plan.phases[0].plan.units[2];
        (unit.resident_bytes, unit.resident_parts) = (4096, Vec::new());
    };
    refused(&content, sliced, &["which are no tensors", "with its parts"]);
    refused(&content, |plan| plan.phases[0].component = 1, &["component 1", "not given"]);
    refused(&content, |plan| plan.phases.clear(), &["no phases"]);
    refused(&content, |plan| plan.budgets.vram_bytes = 8 * MIB, &["do not fit in 8388608"]);
}

#[test]
fn other_weights_are_not_taken_for_those_of_the_plan() {
    let content = model();
    let other = Content::layers(&[&[3 << 20], &[2 << 20]]);
    let (device, _) = host(64);
    let error =
        plan_of(&content).load(&device, &[weights("model", &other)], options()).unwrap_err();
    assert_says(&error.to_string(), &["plan", "differs"]);
    let error =
        plan_of(&content).load(&device, &[weights("vae", &content)], options()).unwrap_err();
    assert_says(&error.to_string(), &["component model was given as vae"]);
}

#[test]
fn a_file_that_cannot_be_read_fails_the_load() {
    let content = model();
    let (device, _) = host(64);
    let plan = planned(&job(&content, 2), budgets(40 * MIB, 2 * MIB), &Rules::auto());
    content.cut_before_end_of(7);
    let error = plan.load(&device, &[weights("model", &content)], options()).unwrap_err();
    assert_says(&error.to_string(), &["model.safetensors", "byte"]);
}
