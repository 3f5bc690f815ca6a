//! `riverbed doctor`: what each device can do here, what is off and why, and the way out.

mod conf;
mod devices;
mod findings;
mod machine;
mod text;

use riverbed::conf::{Conf, Pytorch};
use riverbed::device;

use self::conf::ConfReport;
use self::devices::DeviceReport;
use self::findings::Finding;
use self::machine::Machine;
use crate::Failure;
use crate::text::{print, print_json};

/// Say what each device can do here, what is off and why, and what the conf means on it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    riverbed doctor                         # every GPU of this machine\n  \
    riverbed doctor --device cuda:0\n  \
    riverbed doctor --device cuda:0,library=/usr/lib/wsl/lib/libcuda.so.1\n  \
    riverbed doctor --conf expandable_segments:True --json\n\n\
    Each device is opened for a moment. No memory of it is taken, but for 16 MiB of the device\n\
    named by --device, whose link is measured. Findings are 'ok', 'note' or 'problem'. The exit\n\
    code is 1 when the device named by --device cannot be used, and only then.")]
pub(crate) struct Args {
    /// The device to look at [default: every GPU]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Alloc-conf string; counts over RIVERBED_ALLOC_CONF
    #[arg(long, value_name = "CONF")]
    conf: Option<String>,
    /// Where RIVERBED_ALLOC_CONF is not set, read PyTorch's variables too
    #[arg(long)]
    pytorch_env: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(serde::Serialize)]
struct Report {
    version: u32,
    machine: Machine,
    devices: Vec<DeviceReport>,
    conf: ConfReport,
    findings: Vec<Finding>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let pytorch = if args.pytorch_env { Pytorch::Honour } else { Pytorch::Ignore };
    // A wrong string is wrong usage; a wrong variable is what a doctor is for.
    let given: Conf = args.conf.as_deref().unwrap_or_default().parse()?;
    let conf = given.over_env(pytorch);
    let in_force = conf.as_ref().ok();
    let devices = match &args.device {
        Some(name) => vec![DeviceReport::of_named(name, in_force)?],
        None => gpus(in_force),
    };
    let machine = Machine::read(in_force.unwrap_or(&Conf::default()));
    let conf = ConfReport::new(&conf, pytorch);
    let findings = findings::all(&machine, &devices, args.device.is_some(), &conf);
    let report = Report { version: 1, machine, devices, conf, findings };
    if args.json {
        print_json(&report)?;
    } else {
        print(&text::for_people(&report))?;
    }
    let unusable = report.devices.iter().find(|device| args.device.is_some() && !device.usable);
    match unusable {
        Some(DeviceReport { name, reason: Some(reason), .. }) => {
            Err(Failure::Failed(format!("{name} cannot be used: {reason}")))
        }
        _ => Ok(()),
    }
}

/// Every GPU, and the vendors that have none here.
fn gpus(conf: Option<&Conf>) -> Vec<DeviceReport> {
    let listed = device::list().into_iter();
    let real = listed.filter(|listing| {
        let kind = listing.name.split(':').next();
        matches!(kind, Some("cuda" | "hip"))
    });
    real.map(|listing| DeviceReport::of_listing(listing, conf)).collect()
}
