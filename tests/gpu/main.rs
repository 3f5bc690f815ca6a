//! A GPU that is shared: with other code of the process, with other threads, with captures, and
//! with another GPU. On fake drivers, which see what is done wrong.

#[path = "../support/fake.rs"]
mod fake;
#[path = "../support/mod.rs"]
mod support;

mod captures;
mod contexts;
mod gathering;
mod streams;
mod ways;

use fake::FakeDriver;
use riverbed::device::Device;

/// The first device of a fake.
fn open(fake: &FakeDriver) -> Device {
    Device::open(&fake.device_text()).unwrap()
}

/// What another user of the driver calls: the function of this name answers with success.
macro_rules! call {
    ($fake:expr, $name:ident($($argument:expr => $type:ty),*)) => {{
        let function: unsafe extern "C" fn($($type),*) -> u32 = $fake.symbol(stringify!($name));
        // SAFETY: the arguments are of the types the driver's interface gives the function.
        let status = unsafe { function($($argument),*) };
        assert_eq!(status, 0, stringify!($name));
    }};
}
use call;
