//! Opening a device by name, and telling which there are.

use std::fmt;
use std::sync::Arc;

use super::contract::Driver;
use super::cuda::Cuda;
use super::gpu::{self, GpuSpec};
use super::hip::Hip;
use super::host::{HostDriver, HostSpec};
use super::sim::{Profile, SimDriver, SimSpec};
use super::{CallCounts, DeviceInfo, DriverInfo, MemoryInfo};
use crate::base::{Error, Result};

/// An open device. Clones name the same one; it stays open while any clone, or anything made
/// on it, lives.
#[derive(Clone)]
pub struct Device(Arc<dyn Driver>);

impl Device {
    /// Opens a device by name: `cuda` or `hip` with the device's number (`cuda:0`, see
    /// [`GpuSpec`]), `host` or `sim`, alone or with settings (`host:vram=8GiB,h2d=12GB/s`, see
    /// [`HostSpec`]; `sim:rtx4090,vram=16GiB`, see [`SimSpec`]). A GPU is shared with whoever
    /// else uses it in this process: its primary context is used.
    ///
    /// # Errors
    /// An unknown name or setting; a device that is absent, with the reason; what the driver
    /// says.
    ///
    /// ```
    /// let device = riverbed::device::Device::open("host:vram=64MiB")?;
    /// assert_eq!(device.info().total_bytes, 64 << 20);
    /// # Ok::<(), riverbed::Error>(())
    /// ```
    pub fn open(name: &str) -> Result<Self> {
        let kind = name.split(':').next().unwrap_or_default();
        match kind {
            "host" => {
                let spec: HostSpec = name.parse()?;
                Ok(Self::from_driver(HostDriver::new(name, spec)?))
            }
            "sim" => {
                let spec: SimSpec = name.parse()?;
                Ok(Self::from_driver(SimDriver::new(name, spec)?))
            }
            "cuda" => Ok(Self(gpu::open::<Cuda>(name, &name.parse::<GpuSpec>()?)?)),
            "hip" => Ok(Self(gpu::open::<Hip>(name, &name.parse::<GpuSpec>()?)?)),
            _ => Err(Error::invalid(
                "device",
                name,
                "devices are 'cuda:0', 'hip:0', 'host', 'host:vram=8GiB,h2d=12GB/s', 'sim' and \
                 'sim:rtx4090'; 'riverbed devices' lists them",
            )),
        }
    }

    /// Wraps a driver of one's own.
    #[must_use]
    pub fn from_driver(driver: Arc<dyn Driver>) -> Self {
        Self(driver)
    }

    /// Name, kind and abilities.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        self.0.info()
    }

    /// Total and free device memory now.
    ///
    /// # Errors
    /// What the driver says.
    pub fn memory(&self) -> Result<MemoryInfo> {
        Ok(self.0.memory()?)
    }

    /// What was found of the vendor's driver; `None` for a device without one.
    #[must_use]
    pub fn driver_info(&self) -> Option<&DriverInfo> {
        self.0.driver_info()
    }

    /// How often each driver call was made.
    #[must_use]
    pub fn calls(&self) -> &CallCounts {
        self.0.calls()
    }

    /// The host's time on the device's virtual clock, in nanoseconds; `None` for a device that
    /// runs in real time.
    #[must_use]
    pub fn virtual_ns(&self) -> Option<u64> {
        self.0.virtual_ns()
    }

    /// The contract itself.
    #[must_use]
    pub fn driver(&self) -> &dyn Driver {
        &*self.0
    }

    /// Refuses `what` of another device.
    #[inline]
    pub(crate) fn same_as(&self, other: &Device, what: &str) -> Result<()> {
        if self == other { Ok(()) } else { Err(self.differs_from(other, what)) }
    }

    #[cold]
    fn differs_from(&self, other: &Device, what: &str) -> Error {
        Error::invalid(
            what,
            format_args!("one of {}", other.info().name),
            format!("it must belong to {}, opened once", self.info().name),
        )
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.info().name)
    }
}

/// A line of [`list`].
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Listing {
    /// The name to open it under, or the backend's name where nothing can be opened.
    pub name: String,
    /// Whether [`Device::open`] takes it.
    pub available: bool,
    /// What it is, or why it is not available.
    pub detail: String,
    /// Facts about an available device.
    pub info: Option<DeviceInfo>,
    /// What was found of its driver, where one loads: of an absent device what the library tells
    /// without one.
    pub driver: Option<DriverInfo>,
}

/// The devices of this machine: the host, the cards the simulator knows, and what was found of
/// CUDA and ROCm. Loads the vendors' libraries where they are installed, takes hold of no GPU,
/// and never fails.
#[must_use]
pub fn list() -> Vec<Listing> {
    let open = |name: &str| match Device::open(name) {
        Ok(device) => Listing {
            name: name.into(),
            available: true,
            detail: device.info().description.clone(),
            info: Some(device.info().clone()),
            driver: None,
        },
        Err(error) => Listing {
            name: name.into(),
            available: false,
            detail: error.to_string(),
            info: None,
            driver: None,
        },
    };
    let mut devices = vec![open("host")];
    devices.extend(gpu::survey::<Cuda>());
    devices.extend(gpu::survey::<Hip>());
    devices.extend(Profile::names().map(|card| open(&format!("sim:{card}"))));
    devices
}
