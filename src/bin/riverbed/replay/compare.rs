//! `riverbed replay --compare`: confs ranked on a trace.

use std::sync::atomic::AtomicBool;

use riverbed::base::format_bytes;
use riverbed::replay::{Entry, Plan, Trace, candidates, contest};

use super::progress::Progress;
use super::{Args, failure, tables};
use crate::Failure;
use crate::text::{print, print_json, table};

#[derive(serde::Serialize)]
struct Report<'a> {
    version: u32,
    trace: &'a str,
    peak_live: u64,
    entries: Vec<Entry>,
}

pub(super) fn run(args: &Args, traces: &[Trace], interrupted: &AtomicBool) -> Result<(), Failure> {
    let plan = Plan { repeat: args.repeat, capacity: true, ..Plan::default() };
    let mut hopeless = None;
    for (done, trace) in traces.iter().enumerate() {
        let setup = args.setup(trace)?;
        let confs = candidates(&setup);
        let ops = plan.ops_expected(trace) * confs.len() as u64;
        let progress = Progress::new(trace, ops, interrupted);
        let entries = contest(trace, &setup, &confs, &plan, &progress);
        progress.finish();
        let entries = entries.map_err(|stop| failure(stop, trace, done))?;
        let best = entries.first().and_then(|entry| entry.score.failure.as_ref());
        if let Some(failure) = best {
            hopeless.get_or_insert_with(|| format!("{}: {failure}", trace.name()));
        }
        if args.json {
            let (trace, peak_live) = (trace.name(), trace.peak_live_bytes());
            print_json(&Report { version: 1, trace, peak_live, entries })?;
        } else {
            print(&for_people(trace, &entries))?;
        }
    }
    match hopeless {
        None => Ok(()),
        Some(failure) => Err(Failure::Failed(format!("no conf completes {failure}"))),
    }
}

fn for_people(trace: &Trace, entries: &[Entry]) -> String {
    let mut text = format!(
        "{}: {} operations, peak live {}\n\n",
        trace.name(),
        trace.ops().len(),
        format_bytes(trace.peak_live_bytes())
    );
    let head = ["", "CONF", "RESERVED", "RES/LIVE", "MINCAP", "DEV", "NS/OP"];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(entries.iter().map(|entry| {
        let mut row = vec![entry.rank.to_string(), shown(&entry.conf).into()];
        row.extend(match (&entry.score.fresh, &entry.score.warm) {
            (Some(fresh), Some(warm)) => [
                format_bytes(fresh.peak_reserved),
                format!("{:.4}", fresh.reserved_over_live),
                tables::mincap(&entry.score),
                format!("{}/{}", fresh.device_allocs, fresh.device_frees),
                format!("{:.1}", warm.ns_per_op),
            ],
            _ => ["FAILED", "", "", "", ""].map(String::from),
        });
        row
    }));
    text.push_str(&table(&rows, &[0, 2, 3, 4, 5, 6]));
    if let Some(best) = entries.first() {
        text.push_str(&advice(best));
        text.push_str(&tables::notes(std::slice::from_ref(&best.score)));
    }
    text.push('\n');
    text
}

fn shown(conf: &str) -> &str {
    if conf.is_empty() { "(default)" } else { conf }
}

/// What to paste.
fn advice(best: &Entry) -> String {
    if !best.score.ok {
        return "\nno conf completes it within this capacity\n".into();
    }
    if best.conf.is_empty() {
        return "\nthe default does best; nothing to set\n".into();
    }
    let mut text = format!("\nRIVERBED_ALLOC_CONF='{}'\n", best.conf);
    if let Some(conf) = &best.pytorch_conf {
        text.push_str(&format!("PYTORCH_CUDA_ALLOC_CONF='{conf}'    # in PyTorch itself\n"));
    }
    text
}
