//! One device: what it is, what it can do, and what the conf comes to on it.

use std::time::Duration;

use riverbed::base::Error;
use riverbed::conf::Conf;
use riverbed::device::{Device, DeviceInfo, DriverInfo, Listing, MemoryInfo};
use riverbed::pool::{Allocator, policy_on};
use riverbed::transfer::{LinkProfile, calibrate};

use crate::Failure;

#[derive(serde::Serialize)]
pub(super) struct DeviceReport {
    /// The name to open it under, or the vendor's where it has no device here.
    pub(super) name: String,
    pub(super) usable: bool,
    /// Why it cannot be used.
    pub(super) reason: Option<String>,
    pub(super) info: Option<DeviceInfo>,
    pub(super) driver: Option<DriverInfo>,
    pub(super) memory: Option<MemoryInfo>,
    pub(super) abilities: Vec<Ability>,
    /// What its link does; of a device that was named alone.
    pub(super) link: Option<LinkProfile>,
    /// Why the link could not be measured.
    pub(super) link_reason: Option<String>,
    /// What the conf comes to here; none where the device or the conf cannot be used.
    pub(super) conf: Option<ConfHere>,
}

/// Something devices can or cannot do.
#[derive(serde::Serialize)]
pub(super) struct Ability {
    pub(super) name: &'static str,
    pub(super) on: bool,
    /// Why it is off, or how it is done.
    pub(super) detail: String,
}

/// The conf on one device.
#[derive(serde::Serialize)]
pub(super) struct ConfHere {
    /// The policy that places blocks, which may stand in for the one asked for.
    pub(super) policy: String,
    /// Why no allocator can be made with it.
    pub(super) refused: Option<String>,
}

impl DeviceReport {
    /// The device of that name.
    ///
    /// # Errors
    /// A name that no device has anywhere.
    pub(super) fn of_named(name: &str, conf: Option<&Conf>) -> Result<Self, Failure> {
        match Device::open(name) {
            Ok(device) => Ok(Self::of_open(name, &device, conf).with_link(&device)),
            Err(error @ (Error::InvalidArgument { .. } | Error::Conf { .. })) => Err(error.into()),
            Err(Error::Unsupported { way_out, .. }) => Ok(Self::unusable(name, way_out)),
            Err(error) => {
                // What can be told without taking hold of it.
                let listed = riverbed::device::list().into_iter();
                let known = listed.into_iter().find(|listing| listing.name == name);
                let (info, driver) = known.map_or((None, None), |it| (it.info, it.driver));
                Ok(Self { info, driver, ..Self::unusable(name, error.to_string()) })
            }
        }
    }

    /// A device as it was listed.
    pub(super) fn of_listing(listing: Listing, conf: Option<&Conf>) -> Self {
        let Listing { name, available, detail, info, driver, .. } = listing;
        if !available {
            let reason = detail.strip_prefix("absent: ").unwrap_or(&detail);
            return Self { driver, ..Self::unusable(&name, reason.into()) };
        }
        match Device::open(&name) {
            Ok(device) => Self::of_open(&name, &device, conf),
            Err(error) => Self { info, driver, ..Self::unusable(&name, error.to_string()) },
        }
    }

    /// With no more than a reason.
    fn unusable(name: &str, reason: String) -> Self {
        Self {
            name: name.into(),
            usable: false,
            reason: Some(reason),
            info: None,
            driver: None,
            memory: None,
            abilities: Vec::new(),
            link: None,
            link_reason: None,
            conf: None,
        }
    }

    /// With its link measured, where the device can be used.
    fn with_link(mut self, device: &Device) -> Self {
        if self.usable {
            match calibrate(device, LINK_BUDGET) {
                Ok(link) => self.link = Some(link),
                Err(error) => self.link_reason = Some(error.to_string()),
            }
        }
        self
    }

    fn of_open(name: &str, device: &Device, conf: Option<&Conf>) -> Self {
        let (info, driver) = (device.info(), device.driver_info());
        let memory = device.memory();
        Self {
            name: name.into(),
            usable: memory.is_ok(),
            reason: memory.as_ref().err().map(ToString::to_string),
            info: Some(info.clone()),
            driver: driver.cloned(),
            memory: memory.ok(),
            abilities: abilities(info, driver),
            link: None,
            link_reason: None,
            conf: conf.map(|conf| ConfHere {
                policy: policy_on(info, conf).into(),
                refused: refused(device, conf),
            }),
        }
    }
}

/// How long measuring a link may take, on top of three rounds.
const LINK_BUDGET: Duration = Duration::from_millis(30);

/// Why no allocator can be made. Making one takes no memory.
fn refused(device: &Device, conf: &Conf) -> Option<String> {
    let made = Allocator::builder(device).conf(conf.clone()).build();
    made.err().map(|error| error.to_string())
}

fn abilities(info: &DeviceInfo, driver: Option<&DriverInfo>) -> Vec<Ability> {
    let because = |prefix: &str| {
        let note =
            driver.and_then(|driver| driver.notes.iter().find_map(|n| n.strip_prefix(prefix)));
        note.unwrap_or("switched off").to_owned()
    };
    let ability = |name, on: bool, detail: String| Ability { name, on, detail };
    let plain = |name, on: bool, prefix: &str, how: String| {
        ability(name, on, if on { how } else { because(prefix) })
    };
    let granularity = riverbed::base::format_bytes(info.granularity_bytes);
    let pools = "no stream-ordered pools: ";
    let caps = if info.memory_pools { "pools keep to no cap " } else { pools };
    let mut abilities = vec![
        plain(
            "virtual_memory",
            info.virtual_memory,
            "no virtual memory: ",
            format!("pages of {granularity}"),
        ),
        plain("memory_pools", info.memory_pools, pools, String::new()),
        plain("pool_caps", info.pool_caps, caps, String::new()),
        ability("copy_engines", true, format!("{} a direction at once", info.copy_engines)),
    ];
    if let Some(driver) = driver {
        let gates = if driver.waits_for_values {
            "streams wait for a word of memory".into()
        } else {
            because("gates are ")
        };
        abilities.push(ability("gates_without_host", driver.waits_for_values, gates));
        let batches = if driver.batch_copies { "" } else { "batches are copied one by one" };
        abilities.push(ability("batch_copies", driver.batch_copies, batches.into()));
    }
    abilities
}
