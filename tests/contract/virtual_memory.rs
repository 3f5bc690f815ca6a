//! Mappings that cannot be: over others, in part, outside of what is reserved.

use riverbed::base::DeviceError;
use riverbed::device::{Call, Device, DevicePtr, Kernel, PageId};

use crate::support::{Pinned, pattern, shows, status, stream, upload};

/// Address space and pages that are given back at the end of a test.
struct Space<'a> {
    device: &'a Device,
    at: DevicePtr,
    bytes: u64,
}

impl<'a> Space<'a> {
    /// Room for `pages` pages of the device's granularity; `None`, said aloud, where the device
    /// has no virtual memory.
    fn new(device: &'a Device, pages: u64) -> Option<Self> {
        if !device.info().virtual_memory {
            println!("skipped: {} has no virtual memory", device.info().name);
            return None;
        }
        let bytes = pages * device.info().granularity_bytes;
        let at = device.driver().reserve(bytes).unwrap();
        Some(Self { device, at, bytes })
    }

    fn page_bytes(&self) -> u64 {
        self.device.info().granularity_bytes
    }

    /// The address of the `index`-th page.
    fn at(&self, index: u64) -> DevicePtr {
        self.at.offset(index * self.page_bytes())
    }

    fn create(&self, pages: u64) -> PageId {
        self.device.driver().create_page(pages * self.page_bytes()).unwrap()
    }

    fn map(&self, index: u64, page: PageId) -> Result<(), u32> {
        self.device.driver().map(self.at(index), page).map_err(|error| error.status)
    }

    fn map_many(&self, index: u64, pages: &[PageId]) -> Result<(), u32> {
        self.device.driver().map_many(self.at(index), pages).map_err(|error| error.status)
    }

    fn unmap(&self, index: u64, pages: u64) -> Result<(), u32> {
        // SAFETY: the tests synchronize whatever they enqueue before they unmap.
        let unmapped =
            unsafe { self.device.driver().unmap(self.at(index), pages * self.page_bytes()) };
        unmapped.map_err(|error| error.status)
    }

    fn destroy(&self, page: PageId) {
        // SAFETY: the tests do not use the page after this.
        unsafe { self.device.driver().destroy_page(page) }.unwrap();
    }

    fn release(&self) -> Result<(), u32> {
        // SAFETY: exactly what `reserve` gave.
        let released = unsafe { self.device.driver().release(self.at, self.bytes) };
        released.map_err(|error| error.status)
    }
}

pub(crate) fn pages_are_mapped_in_a_row_or_not_at_all(device: &Device) {
    let Some(space) = Space::new(device, 6) else { return };
    let (one, two, gone) = (space.create(2), space.create(1), space.create(1));
    space.destroy(gone);
    let calls = |call| device.calls().get(call);
    let before = (calls(Call::Map), calls(Call::SetAccess));
    space.map_many(1, &[two, one, two]).unwrap();
    let after = (calls(Call::Map), calls(Call::SetAccess));
    assert_eq!(after, (before.0 + 3, before.1 + 1), "access is set once over all of them");
    let stream = stream(device);
    let bytes = pattern(4 * space.page_bytes() as usize - 2, 11);
    upload(&stream, space.at(1).offset(1), &bytes);
    let bytes = pattern(100, 12);
    upload(&stream, space.at(1), &bytes);
    assert!(shows(&stream, space.at(4), &bytes), "the first page is the last one too");
    space.unmap(1, 4).unwrap();

    space.map(3, two).unwrap();
    for (index, pages, error, why) in [
        (0, &[][..], DeviceError::INVALID_VALUE, "no page"),
        (1, &[two, one], DeviceError::INVALID_VALUE, "the last one runs into a mapping"),
        (2, &[two, two], DeviceError::INVALID_VALUE, "the last one is where a mapping is"),
        (4, &[two, one], DeviceError::INVALID_VALUE, "the last one leaves the space"),
        (0, &[two, gone], DeviceError::INVALID_HANDLE, "the last one is none"),
    ] {
        assert_eq!(space.map_many(index, pages), Err(error), "{why}");
    }
    space.unmap(3, 1).unwrap();
    assert_eq!(space.unmap(0, 6), Err(DeviceError::INVALID_VALUE), "nothing was mapped in part");
    space.destroy(one);
    space.destroy(two);
    space.release().unwrap();
}

pub(crate) fn mapping_needs_reserved_and_empty_space(device: &Device) {
    let Some(space) = Space::new(device, 4) else { return };
    let (page, other) = (space.create(2), space.create(1));
    space.map(1, page).unwrap();
    let before = device.memory().unwrap();
    for (index, why) in [(0, "over its end"), (1, "over it"), (2, "over its tail")] {
        let mapped = space.map(index, page);
        assert_eq!(mapped, Err(DeviceError::INVALID_VALUE), "a mapping {why} is refused");
    }
    assert_eq!(space.map(2, other), Err(DeviceError::INVALID_VALUE), "over its tail");
    assert_eq!(space.map(3, page), Err(DeviceError::INVALID_VALUE), "past the end of the space");
    let odd = device.driver().map(space.at(0).offset(4096), other);
    assert_eq!(status(odd), DeviceError::INVALID_VALUE, "off the granularity");
    let nowhere = DevicePtr(0x1000 * space.page_bytes());
    assert_eq!(status(device.driver().map(nowhere, other)), DeviceError::INVALID_VALUE);
    let beyond = DevicePtr(0u64.wrapping_sub(space.page_bytes()));
    assert_eq!(status(device.driver().map(beyond, other)), DeviceError::INVALID_VALUE);
    assert_eq!(device.memory().unwrap(), before, "a failed call changes nothing");
    // What is mapped is unharmed, and what is free still takes a page.
    space.map(0, other).unwrap();
    space.map(3, other).unwrap();
    let stream = stream(device);
    let bytes = pattern(space.bytes as usize, 9);
    upload(&stream, space.at(1), &bytes[..2 * space.page_bytes() as usize]);
    space.unmap(0, 4).unwrap();
    space.destroy(page);
    space.destroy(other);
    space.release().unwrap();
}

pub(crate) fn mappings_go_whole_or_not_at_all(device: &Device) {
    let Some(space) = Space::new(device, 6) else { return };
    let page = space.create(2);
    space.map(1, page).unwrap();
    let stream = stream(device);
    let bytes = pattern(100, 10);
    upload(&stream, space.at(1), &bytes);
    for (index, pages, why) in [
        (1, 1, "the front half of a mapping"),
        (2, 1, "the back half"),
        (0, 2, "up to its middle"),
        (2, 3, "from its middle"),
        (4, 2, "nothing mapped"),
        (0, 7, "past the space"),
        (1, 0, "no bytes"),
    ] {
        assert_eq!(space.unmap(index, pages), Err(DeviceError::INVALID_VALUE), "{why}");
    }
    assert!(shows(&stream, space.at(1), &bytes), "a failed unmap changes nothing");
    space.map(4, page).unwrap();
    space.unmap(0, 6).expect("several mappings and the gaps around them go at once");
    space.map(1, page).expect("the space is free again");
    space.unmap(1, 2).unwrap();
    space.destroy(page);
    space.release().unwrap();
}

pub(crate) fn address_space_in_use_is_not_released(device: &Device) {
    let Some(space) = Space::new(device, 2) else { return };
    let page = space.create(1);
    space.map(1, page).unwrap();
    let before = device.memory().unwrap();
    assert_eq!(space.release(), Err(DeviceError::INVALID_VALUE), "something is mapped");
    assert_eq!(device.memory().unwrap(), before);
    let stream = stream(device);
    upload(&stream, space.at(1), &[1, 2, 3]);
    assert!(shows(&stream, space.at(1), &[1, 2, 3]), "the mapping is unharmed");
    space.unmap(1, 1).unwrap();
    space.destroy(page);
    space.release().unwrap();
}

pub(crate) fn sizes_off_the_granularity_are_refused(device: &Device) {
    let Some(space) = Space::new(device, 1) else { return };
    let before = device.memory().unwrap();
    for bytes in [0, 1, space.page_bytes() - 1, space.page_bytes() + 4096] {
        let driver = device.driver();
        assert_eq!(status(driver.reserve(bytes)), DeviceError::INVALID_VALUE, "{bytes}");
        assert_eq!(status(driver.create_page(bytes)), DeviceError::INVALID_VALUE, "{bytes}");
    }
    assert_eq!(device.memory().unwrap(), before);
    space.release().unwrap();
}

pub(crate) fn unmapped_space_is_refused_to_work(device: &Device) {
    let Some(space) = Space::new(device, 3) else { return };
    let (one, two) = (space.create(1), space.create(1));
    space.map(0, one).unwrap();
    space.map(2, two).unwrap();
    let stream = stream(device);
    let pinned = Pinned::new(device, 3 * space.page_bytes() as usize);
    let (edge, across) = (space.at(1).offset(0u64.wrapping_sub(8)), 16);
    for (at, bytes, why) in [
        (edge, across, "into a gap"),
        (space.at(1), 8, "in a gap"),
        (space.at(2).offset(0u64.wrapping_sub(8)), 16, "out of a gap"),
        (space.at(0), space.bytes, "over a gap"),
    ] {
        // SAFETY: nothing is enqueued, for the range is not all mapped.
        let copied = unsafe { device.driver().copy_d2h(stream.id(), pinned.address(), at, bytes) };
        assert_eq!(status(copied), DeviceError::INVALID_VALUE, "a copy {why}");
        let fill = Kernel::Fill { dst: at, bytes, value: 1 };
        // SAFETY: as above.
        let launched = unsafe { device.driver().launch(stream.id(), &fill) };
        assert_eq!(status(launched), DeviceError::INVALID_VALUE, "a kernel {why}");
    }
    stream.synchronize().unwrap();
    space.unmap(0, 3).unwrap();
    space.destroy(one);
    space.destroy(two);
    space.release().unwrap();
}
