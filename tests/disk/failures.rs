//! Reads that fail: told where they fail, once, and the next load tries again.

use std::os::unix::fs::FileExt;

use riverbed::transfer::{FaultKind, ReadFault, Urgency};
use riverbed::{Error, Result};

use super::streaming::{KIB, assert_says, ends};
use super::weights::{LARGE, Rig, WAYS, Weights};

/// Where in the file an error says the trouble is.
#[track_caller]
fn offset_of(outcome: Result<Vec<u8>>) -> (u64, String) {
    let error = outcome.unwrap_err();
    let text = error.to_string();
    let Error::File(file) = error else { panic!("{text}") };
    (file.offset.unwrap(), text)
}

#[test]
fn an_error_of_the_disk_in_the_middle_names_file_and_place_and_passes() {
    ends(|| {
        for disk in WAYS {
            let weights = Weights::new(&[100, LARGE]);
            weights.make_cold();
            let byte = weights.offset(1) + 700_000;
            let fault = ReadFault { file: 0, byte, kind: FaultKind::Errno(5), times: 1 };
            let mut rig = Rig::build(&weights, disk.parse().unwrap(), 128 * KIB, &[fault]).unwrap();
            let layout = weights.whole();
            let (at, text) = offset_of(rig.load_layout(&layout));
            assert_says(&text, &["model.safetensors", "os error 5"]);
            assert!((byte - 128 * KIB..=byte).contains(&at), "{disk}: {at} for {byte}");
            weights.verify(&layout, &rig.load_layout(&layout).unwrap());
        }
    });
}

#[test]
fn a_home_that_cannot_be_read_says_so_and_a_new_one_can() {
    ends(|| {
        let weights = Weights::new(&[LARGE]);
        let byte = weights.offset(0) + 10;
        let fault = ReadFault { file: 0, byte, kind: FaultKind::Errno(5), times: 1 };
        let mut rig = Rig::build(&weights, WAYS[0].parse().unwrap(), 128 * KIB, &[fault]).unwrap();
        let layout = weights.whole();
        let plan = rig.loader.plan(&layout);
        let home = rig.loader.home(&plan);
        rig.loader.wait_for_homes();
        assert!(rig.load(&plan, Some(&home), Urgency::Ahead).is_err());
        assert!(home.status().check().is_err());
        let home = rig.loader.home(&plan);
        rig.loader.wait_for_homes();
        weights.verify(&layout, &rig.load(&plan, Some(&home), Urgency::Demand).unwrap());
    });
}

#[test]
fn short_reads_and_interruptions_are_nobodys_trouble() {
    ends(|| {
        for disk in WAYS {
            for kind in [
                FaultKind::Short(0),
                FaultKind::Short(1),
                FaultKind::Short(5000),
                FaultKind::Errno(4),  // EINTR
                FaultKind::Errno(11), // EAGAIN
            ] {
                let weights = Weights::new(&[300, LARGE, 5000]);
                let byte = weights.offset(1) + 300_000;
                // A read of nothing at all is the end of the file when it is asked once more.
                let fault = ReadFault { file: 0, byte, kind, times: 1 };
                let mut rig =
                    Rig::build(&weights, disk.parse().unwrap(), 128 * KIB, &[fault]).unwrap();
                let layout = weights.whole();
                weights.verify(&layout, &rig.load_layout(&layout).unwrap());
            }
        }
    });
}

#[test]
fn a_file_cut_short_is_told_where_it_ends_and_is_read_again_when_it_is_whole() {
    ends(|| {
        for disk in WAYS {
            let weights = Weights::new(&[LARGE, LARGE]);
            let whole = std::fs::read(&weights.path).unwrap();
            let mut rig = Rig::new(&weights, disk);
            let end = weights.offset(1) + 400_001;
            let file = std::fs::OpenOptions::new().write(true).open(&weights.path).unwrap();
            file.set_len(end).unwrap();
            let (first, second) = (weights.layout(&[0]), weights.layout(&[1]));
            weights.verify(&first, &rig.load_layout(&first).unwrap());
            let (at, text) = offset_of(rig.load_layout(&second));
            assert!(at >= end, "{disk}: {at} for {end}");
            assert_says(&text, &["model.safetensors", "ends before", "bytes now and had"]);
            std::fs::write(&weights.path, &whole).unwrap();
            weights.verify(&second, &rig.load_layout(&second).unwrap());
        }
    });
}

#[test]
fn a_file_that_was_written_to_is_told_once() {
    ends(|| {
        let weights = Weights::new(&[LARGE]);
        let mut rig = Rig::new(&weights, "auto");
        let layout = weights.whole();
        rig.load_layout(&layout).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20)); // The clock of files is coarse.
        let file = std::fs::OpenOptions::new().write(true).open(&weights.path).unwrap();
        file.write_at(&weights.tensors[0][..1], weights.offset(0)).unwrap();
        let (_, text) = offset_of(rig.load_layout(&layout));
        assert_says(&text, &["model.safetensors", "written to", "load again"]);
        weights.verify(&layout, &rig.load_layout(&layout).unwrap());
    });
}

#[test]
fn a_file_that_was_replaced_is_told_once_and_the_old_one_goes_on() {
    ends(|| {
        let weights = Weights::new(&[LARGE]);
        let mut rig = Rig::new(&weights, "auto");
        let layout = weights.whole();
        let other = weights.directory.path().join("other");
        std::fs::write(&other, b"another model").unwrap();
        std::fs::rename(&other, &weights.path).unwrap();
        let (_, text) = offset_of(rig.load_layout(&layout));
        assert_says(&text, &["model.safetensors", "another file", "open the model again"]);
        weights.verify(&layout, &rig.load_layout(&layout).unwrap());
        std::fs::remove_file(&weights.path).unwrap();
        weights.verify(&layout, &rig.load_layout(&layout).unwrap());
    });
}

#[test]
fn cancelling_ends_loads_with_reads_under_way() {
    ends(|| {
        for disk in WAYS {
            for round in 0..6 {
                let weights = Weights::new(&[6 * LARGE]);
                weights.make_cold();
                let mut rig = Rig::new(&weights, disk);
                let layout = weights.whole();
                let plan = rig.loader.plan(&layout);
                let buffer = rig.buffer(&plan);
                let plan = rig.loader.plan(&layout);
                let status = rig.loader.load_buffer(&buffer, &plan, None, Urgency::Ahead).unwrap();
                std::thread::sleep(std::time::Duration::from_micros(400 * round));
                rig.loader.cancel();
                rig.loader.stream().synchronize().unwrap();
                match status.check() {
                    Ok(()) => weights.verify(&layout, &rig.read(&buffer, &status).unwrap()),
                    Err(error) => assert!(matches!(error, Error::Cancelled), "{error}"),
                }
                let refused = rig.loader.load_buffer(&buffer, &plan, None, Urgency::Ahead);
                assert!(matches!(refused, Err(Error::Cancelled)));
            }
        }
    });
}
