//! Which page is mapped where: drivers unmap whole mappings only, and do not tell which there
//! are.

use std::collections::{BTreeMap, HashMap};

use crate::base::DeviceError;
use crate::device::arena::Status;

/// The pages of one device and their mappings.
#[derive(Debug, Default)]
pub(super) struct Mappings {
    /// Sizes of pages that are not destroyed, by handle.
    pages: HashMap<u64, u64>,
    /// Sizes of mappings, by address.
    mapped: BTreeMap<u64, u64>,
}

impl Mappings {
    pub(super) fn created(&mut self, page: u64, bytes: u64) {
        self.pages.insert(page, bytes);
    }

    pub(super) fn destroyed(&mut self, page: u64) {
        self.pages.remove(&page);
    }

    /// Where each of `pages` goes when they are mapped one after the other from `at`, with its
    /// size.
    pub(super) fn places(
        &self,
        at: u64,
        pages: impl Iterator<Item = u64>,
    ) -> Result<Vec<(u64, u64, u64)>, Status> {
        let mut next = at;
        let mut places = Vec::new();
        for page in pages {
            let bytes = *self.pages.get(&page).ok_or(DeviceError::INVALID_HANDLE)?;
            places.push((next, page, bytes));
            next = next.checked_add(bytes).ok_or(DeviceError::INVALID_VALUE)?;
        }
        let before = self.mapped.range(..next).next_back();
        if places.is_empty() || before.is_some_and(|(start, bytes)| start + bytes > at) {
            return Err(DeviceError::INVALID_VALUE);
        }
        Ok(places)
    }

    pub(super) fn mapped(&mut self, at: u64, bytes: u64) {
        self.mapped.insert(at, bytes);
    }

    pub(super) fn unmapped(&mut self, at: u64) {
        self.mapped.remove(&at);
    }

    /// The mappings in `bytes` from `at`: at least one, and none that the range cuts.
    pub(super) fn inside(&self, at: u64, bytes: u64) -> Result<Vec<(u64, u64)>, Status> {
        let end = at.checked_add(bytes).ok_or(DeviceError::INVALID_VALUE)?;
        let before = self.mapped.range(..at).next_back();
        let cut_before = before.is_some_and(|(start, bytes)| start + bytes > at);
        let inside: Vec<(u64, u64)> =
            self.mapped.range(at..end).map(|(&start, &bytes)| (start, bytes)).collect();
        let last = inside.last().ok_or(DeviceError::INVALID_VALUE)?;
        if cut_before || last.0 + last.1 > end {
            return Err(DeviceError::INVALID_VALUE);
        }
        Ok(inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_go_whole_and_do_not_overlap() {
        let mut books = Mappings::default();
        books.created(1, 10);
        books.created(2, 20);
        let places = books.places(100, [1, 2].into_iter()).unwrap();
        assert_eq!(places, [(100, 1, 10), (110, 2, 20)]);
        places.iter().for_each(|&(at, _, bytes)| books.mapped(at, bytes));
        for at in [91, 100, 109, 129] {
            assert_eq!(books.places(at, [1].into_iter()), Err(DeviceError::INVALID_VALUE), "{at}");
        }
        books.places(90, [1].into_iter()).unwrap();
        books.places(130, [1].into_iter()).unwrap();
        assert_eq!(books.places(130, [3].into_iter()), Err(DeviceError::INVALID_HANDLE));
        assert_eq!(books.places(u64::MAX, [1].into_iter()), Err(DeviceError::INVALID_VALUE));
        for (at, bytes) in [(100, 11), (101, 29), (95, 5), (100, u64::MAX)] {
            assert_eq!(books.inside(at, bytes), Err(DeviceError::INVALID_VALUE), "{at} {bytes}");
        }
        assert_eq!(books.inside(95, 40), Ok(vec![(100, 10), (110, 20)]));
        books.unmapped(110);
        assert_eq!(books.inside(100, 30), Ok(vec![(100, 10)]));
    }
}
