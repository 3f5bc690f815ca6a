//! Blocks that the system did not let be pinned: slower copies, and the same bytes.

use std::sync::Arc;

use riverbed::base::DeviceError;
use riverbed::device::host::HostDriver;
use riverbed::device::{Call, Device};
use riverbed::pinned::PinnedPool;
use riverbed::pool::Allocator;
use riverbed::transfer::{Part, Transfer, TransferOptions};

use crate::pattern;
use crate::streaming::{MIB, Random, ends, stream};

#[test]
fn blocks_that_are_not_pinned_are_copied_through_memory_that_is() {
    ends(|| {
        let driver = HostDriver::new("host", "host:vram=64MiB".parse().unwrap()).unwrap();
        let device = Device::from_driver(Arc::clone(&driver) as Arc<_>);
        let conf = "pinned_limit_mb:64".parse().unwrap();
        let window = PinnedPool::new(&device, &conf);
        // What the ring needs is pinned before the system refuses any more.
        drop([0; 8].map(|_| window.alloc_pinned(4 * MIB as usize).unwrap()));
        for call in [Call::Register, Call::AllocPinned] {
            driver.faults().fail_nth(Some(call), 1, DeviceError::OUT_OF_MEMORY);
        }
        let pageable = PinnedPool::new(&device, &conf);
        let options = TransferOptions { staging_pool: Some(window), ..Default::default() };
        let transfer = Transfer::with_options(&device, &options).unwrap();
        let stream = stream(&device);
        let allocator = Allocator::builder(&device).build().unwrap();
        let len = 9 * MIB as usize + 7;
        let buffer = allocator.alloc::<u8>(len, &stream).unwrap();
        let mut block = pageable.alloc(len).unwrap();
        assert!(!block.is_pinned());
        let bytes = pattern(3, len);
        block.copy_from_slice(&bytes);
        let mut block = transfer.upload(block, &buffer, 0).unwrap().wait().unwrap();
        block.fill(0);
        let block = transfer.download(&buffer, 0, block).unwrap().wait().unwrap();
        assert!(block[..] == bytes[..]);
        // Given up early: the memory stays until the copy has read it.
        drop(transfer.upload(block, &buffer, 0).unwrap());
        let mut again = pageable.alloc(len).unwrap();
        again.fill(0xEE);
        assert!(!again.is_pinned());
        let shared = transfer.download(&buffer, 0, again).unwrap().wait().unwrap().freeze();
        assert!(shared[..] == bytes[..]);
        // In parts: a thousand small ones side by side in the buffer, from anywhere in the block.
        let mut random = Random::new(4);
        let (mut parts, mut wanted) = (Vec::new(), Vec::new());
        for _ in 0..1000 {
            let (from, part_len) = (random.below(len - 9000), 1 + random.below(9000));
            parts.push(Part {
                block_offset: from as u64,
                buffer_offset: wanted.len() as u64,
                len_bytes: part_len as u64,
            });
            wanted.extend_from_slice(&bytes[from..from + part_len]);
        }
        let made = || device.calls().sum(&[Call::CopyH2d, Call::CopyBatch]);
        let before = made();
        let pending = transfer.upload_parts(&shared, &buffer, &parts).unwrap();
        assert_eq!(pending.total_bytes(), wanted.len() as u64);
        drop(pending.wait().unwrap());
        let copies = made() - before;
        assert!(copies <= wanted.len() as u64 / (4 * MIB) + 1, "{copies} copies");
        let mut back = vec![0; wanted.len()];
        transfer.download_into(&buffer, 0, &mut back).unwrap();
        assert!(back == wanted);
    });
}
