//! `riverbed devices`: what this machine has.

use riverbed::base::format_bytes;
use riverbed::device;

use crate::Failure;
use crate::text::{print, print_json, table};

/// List the devices of this machine, and why others are not available
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  riverbed devices\n  riverbed devices --json")]
pub(crate) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Report {
    version: u32,
    devices: Vec<device::Listing>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let devices = device::list();
    if args.json {
        return print_json(&Report { version: 1, devices });
    }
    let (cards, real): (Vec<_>, Vec<_>) = devices.iter().partition(|listing| is_card(listing));
    let mut rows = vec![["DEVICE", "MEMORY", "DETAIL"].map(String::from).to_vec()];
    rows.extend(real.into_iter().map(row));
    rows.push(Vec::new());
    rows.extend(cards.into_iter().map(row));
    print(&table(&rows, &[1]))
}

/// Of the simulator: apart, so that what is really there is seen first.
fn is_card(listing: &device::Listing) -> bool {
    listing.info.as_ref().is_some_and(|info| info.simulated)
}

fn row(listing: &device::Listing) -> Vec<String> {
    let memory = listing.info.as_ref().map(|info| format_bytes(info.total_bytes));
    vec![listing.name.clone(), memory.unwrap_or_else(|| "-".into()), listing.detail.clone()]
}
