//! The plan for people: what it comes to, groups of like units, a picture of a pass, reasons.

use riverbed::base::format_bytes;
use riverbed::plan::{PhasePlan, Plan, UnitPlan};

use super::Outcome;
use super::picture::{draw, terminal_width};
use super::timeline::Timeline;
use crate::text::{short_seconds, table};

/// Less than this share of a pass is no wait: rounding of bytes.
const ROUNDING: f64 = 1e-6;
/// Units whose bytes differ by less than one in so many are alike: pieces of a split one.
const ALIKE_SHARE: u64 = 100;

pub(super) fn for_people(outcome: &Outcome) -> String {
    let Outcome { plan, with_more, .. } = outcome;
    let Some(main) = plan.main_phase() else { return "the job has no phase\n".into() };
    let mut text = head(outcome, main);
    text += &table(&figures(plan, main, with_more.as_ref()), &[]);
    if plan.phases.len() > 1 {
        text.push('\n');
        text += &phases(plan);
    }
    text.push('\n');
    text += &groups(plan, main);
    let pass = Timeline::of(main, plan);
    text += &format!("\nA pass of '{}' once passes are alike:\n", main.plan.name);
    text += &draw(&pass, main.plan.ring_bytes, terminal_width());
    text.push_str("\nWhy:\n");
    for reason in plan.reasons.iter().chain(&outcome.notes) {
        text += &format!("- {reason}\n");
    }
    text
}

fn head(outcome: &Outcome, main: &PhasePlan) -> String {
    let Outcome { job, plan, .. } = outcome;
    let of = |bytes: u64| format_bytes(bytes);
    let weights = job.components.iter().map(|component| component.bytes()).sum();
    let components = match job.components.len() {
        1 => format!("{} units", main.plan.units.len()),
        several => format!("{several} components"),
    };
    format!(
        "{}: {components}, {}, within {} on {}; mode {}\n\n",
        job.name,
        of(weights),
        of(plan.budgets.vram_bytes),
        plan.rates.name,
        plan.rules.mode
    )
}

fn figures(plan: &Plan, main: &PhasePlan, with_more: Option<&Plan>) -> Vec<Vec<String>> {
    let seconds = main.seconds_per_pass;
    let waits = main.stall_seconds > ROUNDING * seconds;
    // Rounding may leave a plan at its bound a hair below it.
    let above = ((seconds / main.bound_seconds - 1.0) * 100.0).max(0.0);
    let ComponentBytes { resident, ring, streamed } = ComponentBytes::of(main);
    let mut beside = vec![format!("{resident} of weights stay"), format!("{ring} ring")];
    for (bytes, what) in
        [(main.held_bytes, "of other components"), (main.working_bytes, "to work in")]
    {
        if bytes > 0 {
            beside.push(format!("{} {what}", format_bytes(bytes)));
        }
    }
    let rows = [
        (
            "a pass",
            format!(
                "{}: {} of compute, which {}",
                short_seconds(seconds),
                short_seconds(main.compute_seconds),
                if waits {
                    format!("waits for {}", short_seconds(main.stall_seconds))
                } else {
                    "never waits".into()
                }
            ),
        ),
        (
            "bound",
            format!(
                "{}, below which no plan is; this one is {above:.1} % above",
                short_seconds(main.bound_seconds)
            ),
        ),
        ("limited by", binds(plan, main, &streamed)),
        (
            "device memory",
            format!("{} at most: {}", format_bytes(plan.peak_bytes), beside.join(", ")),
        ),
        ("1 GB more", gain(main, with_more)),
        ("the job", format!("{}, loading included", short_seconds(plan.seconds))),
    ];
    rows.map(|(name, value)| vec![name.into(), value]).into()
}

/// Sizes of a phase, as text.
struct ComponentBytes {
    resident: String,
    ring: String,
    streamed: String,
}

impl ComponentBytes {
    fn of(phase: &PhasePlan) -> Self {
        let plan = &phase.plan;
        Self {
            resident: format_bytes(plan.resident_bytes),
            ring: format_bytes(plan.ring_bytes),
            streamed: format_bytes(plan.streamed_bytes),
        }
    }
}

/// What says how long a pass takes, in words.
fn binds(plan: &Plan, main: &PhasePlan, streamed: &str) -> String {
    let copies = short_seconds(main.plan.streamed_bytes as f64 / plan.rates.link_bytes_per_second);
    if main.plan.streamed_bytes == 0 {
        "compute: nothing is streamed".into()
    } else if !plan.rules.prefetch {
        format!("both in turn: compute waits for all copies of {streamed} ({copies}) in this mode")
    } else if main.link_bound {
        format!(
            "the link (link bound): {streamed} cross it in a pass, for {copies}; compute \
             cannot hide that"
        )
    } else if main.stall_seconds > 1e-3 * main.seconds_per_pass {
        format!("the ring's room: compute could hide the copies of {streamed} if more were ahead")
    } else {
        format!("compute: the copies of {streamed} ({copies}) hide behind it")
    }
}

/// Seconds of the same phase's pass in the plan with more memory.
pub(super) fn with_more(main: Option<&PhasePlan>, more: Option<&Plan>) -> Option<f64> {
    let same = more?.phases.iter().find(|phase| main.is_some_and(|main| main.name == phase.name));
    Some(same?.seconds_per_pass)
}

fn gain(main: &PhasePlan, more: Option<&Plan>) -> String {
    let Some(seconds) = with_more(Some(main), more) else { return "no plan".into() };
    let saved = main.seconds_per_pass - seconds;
    let share = 100.0 * saved / main.seconds_per_pass.max(f64::MIN_POSITIVE);
    if share < 0.05 {
        return "would gain nothing".into();
    }
    format!("would make a pass {}, {share:.1} % less", short_seconds(seconds))
}

fn phases(plan: &Plan) -> String {
    let titles = [
        "PHASE",
        "COMPONENT",
        "PASSES",
        "PASS s",
        "BOUND s",
        "ALL s",
        "STAYS",
        "RING",
        "OTHERS",
        "PEAK",
    ];
    let mut rows = vec![titles.map(String::from).to_vec()];
    rows.extend(plan.phases.iter().map(|phase| {
        vec![
            phase.name.clone(),
            phase.plan.name.clone(),
            phase.passes.to_string(),
            format!("{:.4}", phase.seconds_per_pass),
            format!("{:.4}", phase.bound_seconds),
            format!("{:.3}", phase.seconds),
            format_bytes(phase.plan.resident_bytes),
            format_bytes(phase.plan.ring_bytes),
            format_bytes(phase.held_bytes),
            format_bytes(phase.peak_bytes),
        ]
    }));
    table(&rows, &[2, 3, 4, 5, 6, 7, 8, 9])
}

/// Units alike that follow one another: names that differ in numbers, and about as many bytes.
struct Group<'a> {
    units: &'a [UnitPlan],
}

fn groups(plan: &Plan, main: &PhasePlan) -> String {
    let titles =
        ["UNITS", "COUNT", "EACH", "STAYS", "STREAMED", "COPY ms", "COMPUTE ms", "WHOLE/PART"];
    let mut rows = vec![titles.map(String::from).to_vec()];
    let rate = plan.rates.link_bytes_per_second;
    let of = |group: &Group<'_>| group.row(rate);
    let groups = main.plan.units.chunk_by(alike).map(|units| Group { units });
    rows.extend(groups.map(|group| of(&group)));
    table(&rows, &[1, 2, 3, 4, 5, 6, 7])
}

fn alike(one: &UnitPlan, next: &UnitPlan) -> bool {
    let near = one.bytes.abs_diff(next.bytes) <= one.bytes / ALIKE_SHARE;
    near && pattern(&one.name) == pattern(&next.name)
}

/// A name with its numbers left out.
fn pattern(name: &str) -> String {
    name.split(|c: char| c.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("#")
}

impl Group<'_> {
    fn row(&self, bytes_per_second: f64) -> Vec<String> {
        let sum = |bytes: fn(&UnitPlan) -> u64| self.units.iter().map(bytes).sum::<u64>();
        let (all, stays) = (sum(|unit| unit.bytes), sum(|unit| unit.resident_bytes));
        let wire = sum(|unit| unit.wire_bytes) as f64 * (all - stays) as f64 / (all.max(1)) as f64;
        let compute: f64 = self.units.iter().map(|unit| unit.compute_seconds).sum();
        let whole = self.units.iter().filter(|unit| unit.resident_bytes >= unit.bytes).count();
        let touched = self.units.iter().filter(|unit| unit.resident_bytes > 0).count();
        vec![
            self.name(),
            self.units.len().to_string(),
            format_bytes(self.units.first().map_or(0, |unit| unit.bytes)),
            format_bytes(stays),
            format_bytes(all - stays),
            format!("{:.2}", wire / bytes_per_second * 1e3),
            format!("{:.2}", compute * 1e3),
            format!("{whole}/{}", touched - whole),
        ]
    }

    /// The first name, and what is different in the last.
    fn name(&self) -> String {
        let [first, .., last] = self.units else {
            return self.units.first().map_or_else(String::new, |unit| unit.name.clone());
        };
        let pairs = first.name.char_indices().zip(last.name.chars());
        let same = pairs.take_while(|((_, a), b)| a == b).last();
        let same = same.map_or(0, |((at, char), _)| at + char.len_utf8());
        // A number is shown whole.
        let start = last.name[..same].trim_end_matches(|c: char| c.is_ascii_digit()).len();
        format!("{} .. {}", first.name, &last.name[start..])
    }
}
