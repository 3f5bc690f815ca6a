//! Many threads at once.

use std::sync::Arc;

use riverbed::Error;

use super::streaming::{Content, Random, Rig, Setup, Sums, ends, stream};

#[test]
fn four_threads_with_streams_of_their_own_find_the_right_bytes() {
    ends(|| {
        let content = Arc::new(Content::layers(&[
            &[70_000],
            &[1],
            &[30_000, 30_000],
            &[100_000],
            &[255],
            &[0],
            &[65_536],
            &[90_001],
        ]));
        for (slots, depth, keep) in [(4, 0, false), (5, 2, true), (9, 8, false)] {
            let setup = Setup::ring(slots * content.largest()).depth(depth).keep(keep);
            let rig = Arc::new(Rig::new(&content, setup));
            let threads: Vec<_> = (0..4)
                .map(|number| {
                    let (rig, content) = (Arc::clone(&rig), Arc::clone(&content));
                    std::thread::spawn(move || {
                        let mut random = Random::new(number + 1000 * slots);
                        let own = stream(&rig.device);
                        let mut sums = Sums::new(&rig.device);
                        let mut leased = 0;
                        while leased < 150 {
                            let unit = random.below(8);
                            match rig.prefetcher.acquire(unit, &own) {
                                Ok(lease) => {
                                    leased += 1;
                                    sums.enqueue(&lease, &content);
                                    if random.below(16) == 0 {
                                        lease.wait_host().unwrap();
                                    }
                                }
                                // The other threads' leases hold the room for now.
                                Err(Error::RingHeld { .. }) => std::thread::yield_now(),
                                Err(error) => panic!("{error}"),
                            }
                        }
                        rig.prefetcher.finish_pass(&own).unwrap().into_result().unwrap();
                        sums.verify()
                    })
                })
                .collect();
            for thread in threads {
                assert!(thread.join().unwrap() >= 150 / 2);
            }
            assert_eq!(rig.prefetcher.stats().leases, 600);
            // All leases are back: every unit can be had again.
            let mut sums = rig.sums();
            rig.pass(&content, &mut sums);
            assert_eq!(sums.verify(), 9);
        }
    });
}

#[test]
fn leases_dropped_on_other_threads_free_their_room() {
    ends(|| {
        let content = Arc::new(Content::layers(&[&[70_000], &[60_000], &[50_000], &[70_000]]));
        let rig = Rig::new(&content, Setup::ring(2 * content.largest()).depth(1));
        let (sender, receiver) = std::sync::mpsc::sync_channel(0);
        let dropper = std::thread::spawn(move || receiver.into_iter().for_each(drop));
        let mut sums = rig.sums();
        let mut leased = 0;
        while leased < 200 {
            match rig.prefetcher.acquire(leased % 4, &rig.stream) {
                Ok(lease) => {
                    sums.enqueue(&lease, &content);
                    sender.send(lease).unwrap();
                    leased += 1;
                }
                Err(Error::RingHeld { .. }) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        drop(sender);
        dropper.join().unwrap();
        rig.prefetcher.finish_pass(&rig.stream).unwrap().into_result().unwrap();
        assert_eq!(sums.verify(), 200);
    });
}
