//! How close a pass comes to what no pass can take less than, on a virtual clock.

use riverbed::prefetch::PrefetchOptions;

use super::paced::{Paced, Stack, flux};
use super::streaming::ends;

/// A 32nd of the size and the rate of the bench, so that durations are the same.
const SCALE: u64 = 32;
const LINK: u64 = 2_000_000_000 / SCALE;

#[test]
fn layers_of_two_sizes_bank_the_slack_of_one_for_the_other() {
    ends(|| {
        let stacks = flux(2_000_000_000 / SCALE);
        let pace = |options| Paced::new(&stacks, 400_000_000 / SCALE, LINK, options).worst_ratio(4);
        let ring = pace(PrefetchOptions::default());
        assert!(ring <= 1.03, "{ring}");
        // What it is worth: two units ahead, and addresses that stay.
        let shallow = pace(PrefetchOptions { depth: 1, ..PrefetchOptions::default() });
        assert!(shallow > ring + 0.05, "{shallow}");
        let stable = pace(PrefetchOptions { stable_addresses: true, ..PrefetchOptions::default() });
        assert!(stable <= 1.10, "{stable}");
    });
}

#[test]
fn two_slots_hide_whatever_can_be_hidden_of_equal_layers() {
    ends(|| {
        let layer_bytes = 40_000_000 / SCALE;
        for copy_per_compute in [0.6, 1.0, 1.9] {
            let stack = Stack { layers: 16, layer_bytes, copy_per_compute };
            let options = PrefetchOptions::default();
            // Units are padded to 256 bytes.
            let ring_bytes = 2 * layer_bytes.next_multiple_of(256);
            let ratio = Paced::new(&[stack], ring_bytes, LINK, options).worst_ratio(4);
            assert!(ratio <= 1.03, "copy/compute {copy_per_compute}: {ratio}");
        }
    });
}
