//! Memory that is not pinned: staged through a ring, in order with everything else.

use std::sync::Arc;

use riverbed::Error;
use riverbed::base::DeviceError;
use riverbed::device::{Gate, checksum};
use riverbed::transfer::{Transfer, TransferOptions};

use crate::streaming::{MIB, assert_says, ends, stream};
use crate::{Bench, CHUNK, bench, bench_with, options, pattern};

#[test]
fn slices_arrive_whole_both_ways_at_every_size() {
    ends(|| {
        let bench = bench();
        let sizes = [0, 1, 99, 256 << 10, (256 << 10) + 1, 3 * CHUNK, 4 * CHUNK, (5 << 20) + 777];
        for (number, len) in sizes.into_iter().enumerate() {
            for transfer in [bench.transfer.clone(), bench.transfer.ahead()] {
                let bytes = pattern(number as u64, len);
                let buffer = bench.buffer(len + 9);
                buffer.fill(0xEE, &bench.stream).unwrap();
                drop(transfer.upload_slice(&bytes, &buffer, 5).unwrap());
                let mut back = vec![0; len];
                transfer.download_into(&buffer, 5, &mut back).unwrap();
                assert!(back == bytes, "{len}");
                let all = bench.transfer.read(&buffer, &bench.pinned).unwrap();
                let around = all[..5].iter().chain(&all[5 + len..]);
                assert!(around.into_iter().all(|&byte| byte == 0xEE), "{len}");
            }
        }
        bench.is_clean();
    });
}

#[test]
fn an_owned_source_never_holds_up_the_caller_and_comes_back() {
    ends(|| {
        let bench = bench();
        let gate = Gate::new(&bench.device).unwrap();
        for len in [99, 40 * CHUNK] {
            let (source, buffer) = (Arc::new(pattern(1, len)), bench.buffer(len));
            let sums = bench.allocator.alloc::<u64>(1, &bench.stream).unwrap();
            bench.stream.wait_gate(&gate, 1).unwrap();
            let pending = bench.transfer.upload_owned(Arc::clone(&source), &buffer, 0).unwrap();
            // Enqueued before a byte of it is on the device.
            buffer.checksum(0, len as u64, &sums, 0, &stream(&bench.device)).unwrap();
            assert!(!pending.is_done().unwrap());
            gate.open(1).unwrap();
            assert!(Arc::ptr_eq(&pending.wait().unwrap(), &source));
            assert_eq!(bench.transfer.read(&sums, &bench.pinned).unwrap(), [checksum(&source)]);
        }
        bench.is_clean();
    });
}

#[test]
fn copies_given_up_by_their_owner_still_arrive_in_order() {
    ends(|| {
        let bench = bench();
        let len = 10 * CHUNK;
        let buffer = bench.buffer(len);
        for round in 0..20 {
            let bytes = pattern(round, len);
            drop(bench.transfer.upload_owned(Arc::new(bytes.clone()), &buffer, 0).unwrap());
            drop(bench.transfer.upload_slice(&bytes[..len / 2], &buffer, 0).unwrap());
            drop(bench.transfer.upload(bench.block(&bytes[..99]), &buffer, 7).unwrap());
            let mut wanted = bytes.clone();
            wanted[7..106].copy_from_slice(&bytes[..99]);
            assert!(bench.transfer.read(&buffer, &bench.pinned).unwrap() == wanted);
        }
        bench.is_clean();
    });
}

#[test]
fn a_cancelled_source_is_read_no_further_and_what_is_behind_goes_on() {
    ends(|| {
        let bench = bench();
        let gate = Gate::new(&bench.device).unwrap();
        let len = 40 * CHUNK;
        let (source, buffer) = (Arc::new(pattern(2, len)), bench.buffer(len));
        bench.stream.wait_gate(&gate, 1).unwrap();
        let pending = bench.transfer.upload_owned(source, &buffer, 0).unwrap();
        pending.cancel();
        gate.open(1).unwrap();
        assert!(matches!(pending.wait(), Err(Error::Cancelled)));
        buffer.fill(3, &bench.stream).unwrap();
        let content = bench.transfer.read(&buffer, &bench.pinned).unwrap();
        assert!(content.iter().all(|&byte| byte == 3));
        bench.is_clean();
    });
}

/// Shows its bytes once, then panics or shows fewer.
struct Liar(std::sync::atomic::AtomicUsize, bool);

impl AsRef<[u8]> for Liar {
    fn as_ref(&self) -> &[u8] {
        static BYTES: [u8; 4 << 20] = [0; 4 << 20];
        match self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => &BYTES,
            _ if self.1 => panic!("on purpose"),
            _ => &BYTES[1..],
        }
    }
}

#[test]
fn a_source_that_lies_fails_alone() {
    ends(|| {
        let bench = bench();
        let buffer = bench.buffer(4 << 20);
        for panics in [true, false] {
            let liar = Arc::new(Liar(0.into(), panics));
            let error = bench.transfer.upload_owned(liar, &buffer, 0).unwrap().wait().err();
            assert_says(&error.unwrap().to_string(), &["source"]);
            let bytes = pattern(3, 4 << 20);
            drop(bench.transfer.upload_slice(&bytes, &buffer, 0).unwrap());
            assert!(bench.transfer.read(&buffer, &bench.pinned).unwrap() == bytes);
        }
    });
}

#[test]
fn a_tight_budget_costs_speed_and_nothing_else() {
    ends(|| {
        let mut bench = bench();
        let conf = riverbed::conf::Conf::default().with_pinned_limit_bytes(MIB).unwrap();
        let tight = riverbed::pinned::PinnedPool::new(&bench.device, &conf);
        let options =
            TransferOptions { staging_pool: Some(tight.clone()), ..TransferOptions::default() };
        bench.transfer = Transfer::with_options(&bench.device, &options).unwrap();
        let bytes = pattern(4, 7 << 20);
        let buffer = bench.buffer(bytes.len());
        drop(bench.transfer.upload_slice(&bytes, &buffer, 0).unwrap());
        assert!(bench.transfer.read(&buffer, &bench.pinned).unwrap() == bytes);
        assert!(tight.stats().reserved_peak_bytes <= MIB);
    });
}

#[test]
fn ranges_outside_the_buffer_are_refused() {
    let bench = bench();
    let buffer = bench.buffer(MIB as usize);
    for (len, offset) in [(MIB as usize, 1), (9, u64::MAX), (2 << 20, 0)] {
        let bytes = vec![0; len];
        let says = |error: Error| {
            assert_says(&error.to_string(), &["copy range", "buffer has 1048576 bytes"]);
        };
        says(bench.transfer.upload_slice(&bytes, &buffer, offset).err().unwrap());
        says(bench.transfer.download_into(&buffer, offset, &mut vec![0; len]).err().unwrap());
        says(bench.transfer.upload_owned(Arc::new(bytes), &buffer, offset).err().unwrap());
    }
}

fn program(bench: &Bench, bytes: &[u8]) -> Vec<Error> {
    let mut errors = Vec::new();
    let buffer = match bench.allocator.alloc::<u8>(bytes.len(), &bench.stream) {
        Ok(buffer) => buffer,
        Err(error) => return vec![error],
    };
    let up = bench.transfer.upload_slice(bytes, &buffer, 0).and_then(|pending| pending.wait());
    errors.extend(up.err());
    let owned = Arc::new(bytes.to_vec());
    let up = bench.transfer.upload_owned(owned, &buffer, 0).and_then(|pending| pending.wait());
    errors.extend(up.err());
    errors.extend(bench.transfer.download_into(&buffer, 0, &mut vec![0; bytes.len()]).err());
    errors
}

#[test]
fn every_call_may_fail_once() {
    let bytes = pattern(5, 8 * CHUNK);
    let mut told = 0;
    for nth in 1.. {
        let bytes = bytes.clone();
        let (left, errors) = ends(move || {
            let bench = bench_with(&options());
            bench.driver.faults().fail_nth(None, nth, DeviceError::UNKNOWN);
            let errors = program(&bench, &bytes);
            bench.stream.synchronize().ok();
            let left = bench.driver.faults().clear();
            assert!(program(&bench, &bytes).is_empty(), "call {nth}");
            bench.is_clean();
            (left, errors)
        });
        if left > 0 {
            assert!(nth > 80 && told > 50, "{nth} calls, {told} told");
            break;
        }
        assert!(errors.len() <= 1, "call {nth}: {errors:?}");
        for error in &errors {
            assert!(matches!(error, Error::Device(_)), "call {nth}: {error}");
        }
        told += errors.len();
    }
}
