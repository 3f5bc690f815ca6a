//! Every driver call of a set of copies fails in turn.

use riverbed::Error;
use riverbed::base::DeviceError;

use crate::streaming::ends;
use crate::{Bench, CHUNK, bench_with, by_caller, options, pattern};

/// Copies of every kind; gives the errors seen.
fn program(bench: &Bench, bytes: &[u8]) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut note = |outcome: riverbed::Result<()>| errors.extend(outcome.err());
    let whole = bench.allocator.alloc::<u8>(bytes.len(), &bench.stream);
    let buffer = match whole {
        Ok(buffer) => buffer,
        Err(error) => return vec![error],
    };
    for transfer in [bench.transfer.clone(), bench.transfer.ahead()] {
        for len in [99, 2 * CHUNK, bytes.len()] {
            let Ok(block) = bench.pinned.alloc(len) else { continue };
            let up = transfer.upload(block, &buffer, 0);
            note(buffer.use_on(&bench.stream));
            let Ok(block) = bench.pinned.alloc(len) else { continue };
            let down = transfer.download(&buffer, 0, block);
            note(up.and_then(|pending| pending.wait()).map(drop));
            note(down.and_then(|pending| pending.wait()).map(drop));
        }
    }
    errors
}

fn works(bench: &Bench, bytes: &[u8]) {
    let buffer = bench.buffer(bytes.len());
    bench.transfer.upload(bench.block(bytes), &buffer, 0).unwrap().wait().unwrap();
    assert!(bench.transfer.read(&buffer, &bench.pinned).unwrap() == bytes);
}

#[test]
fn every_call_may_fail_once_and_nothing_leaks_hangs_or_is_hushed_up() {
    for options in [options(), by_caller()] {
        let bytes = pattern(1, 10 * CHUNK);
        let (mut struck, mut told) = (0, 0);
        for nth in 1.. {
            let (options, bytes) = (options.clone(), bytes.clone());
            let (left, errors) = ends(move || {
                let bench = bench_with(&options);
                bench.driver.faults().fail_nth(None, nth, DeviceError::UNKNOWN);
                let errors = program(&bench, &bytes);
                bench.stream.synchronize().ok();
                let left = bench.driver.faults().clear();
                works(&bench, &bytes);
                bench.is_clean();
                (left, errors)
            });
            if left > 0 {
                break;
            }
            struck += 1;
            for error in &errors {
                let Error::Device(error) = error else { panic!("call {nth}: {error}") };
                assert_eq!(error.status, DeviceError::UNKNOWN, "call {nth}");
            }
            assert!(errors.len() <= 1, "call {nth}: one failure, one error: {errors:?}");
            told += errors.len();
        }
        // What can be asked again is, and then there is nothing to tell.
        assert!(struck > 150 && told > 50, "{struck} struck, {told} told");
    }
}
