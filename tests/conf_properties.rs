//! What holds for every conf string: none panics, and every valid one prints and reads back.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use riverbed::conf::{Conf, options};

/// One well-formed value for every key but the three that choose the policy.
fn values() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let flag = || select(vec!["True", "False"]).prop_map(str::to_owned);
    let any_mib = || (0..1u64 << 44).prop_map(|mib| mib.to_string());
    let reserve = || {
        prop_oneof![
            (1e-9..1e9f64).prop_map(|fraction| fraction.to_string()),
            (1e-6..1e9f64).prop_map(|gib| format!("{gib}G")),
        ]
    };
    let division = || (0..16u32).prop_map(|log2| 1u64 << log2);
    let entry = (prop_oneof![Just(None), (0..20u32).prop_map(Some)], division(), any::<bool>());
    let divisions = prop_oneof![
        division().prop_map(|single| single.to_string()),
        prop::collection::vec(entry, 1..5).prop_map(|entries| {
            let items: Vec<_> = entries
                .into_iter()
                .map(|(boundary, division, off)| {
                    let boundary = boundary.map_or(">".into(), |log2| (1u64 << log2).to_string());
                    format!("{boundary}:{}", if off { 0 } else { division })
                })
                .collect();
            format!("[{}]", items.join(","))
        }),
    ];
    let classes = prop::collection::btree_map("[a-z_]{1,6}", reserve(), 1..4).prop_map(|classes| {
        let items: Vec<_> = classes.into_iter().map(|(k, v)| format!("{k}:{v}")).collect();
        format!("[{}]", items.join(","))
    });
    // At least 64 where the segment is at most 63, so that any subset of the keys is valid.
    let split = || (64..1u64 << 44).prop_map(|mib| mib.to_string());
    let limit = || prop_oneof![Just("0.5".into()), (1..1u64 << 44).prop_map(|m| m.to_string())];
    let sizes =
        (split(), split(), 11..64u64, any_mib(), any_mib(), 1..1u64 << 44, limit(), limit());
    let numbers = (0.0001..0.9999f64, 0.0..=1.0f64, 0..8u32, divisions, reserve(), classes);
    let flags = prop::collection::vec(flag(), 6);
    (sizes, numbers, flags).prop_map(|(sizes, numbers, flags)| {
        let mut values = vec![
            ("max_split_size_mb", sizes.0),
            ("max_non_split_rounding_mb", sizes.1),
            ("large_segment_size_mb", sizes.2.to_string()),
            ("pinned_max_round_threshold_mb", sizes.3),
            ("pinned_max_cached_size_mb", sizes.4),
            ("pinned_reserve_segment_size_mb", sizes.5.to_string()),
            ("limit_mb", sizes.6),
            ("pinned_limit_mb", sizes.7),
            ("garbage_collection_threshold", numbers.0.to_string()),
            ("per_process_memory_fraction", numbers.1.to_string()),
            ("pinned_num_register_threads", (1u32 << numbers.2).to_string()),
            ("roundup_power2_divisions", numbers.3),
            ("expandable_segments_reserve", numbers.4),
            ("expandable_segments_reserve_by_class", numbers.5),
        ];
        let flag_keys = [
            "throw_on_cudamalloc_oom",
            "release_lock_on_hipmalloc",
            "graph_capture_record_stream_reuse",
            "pinned_use_cuda_host_register",
            "pinned_use_background_threads",
            "pinned_free_catch_all",
        ];
        values.extend(flag_keys.into_iter().zip(flags));
        values
    })
}

/// At most one spelling of a policy.
fn policies() -> impl Strategy<Value = Option<(&'static str, String)>> {
    prop::option::of(prop_oneof![
        "[a-zA-Z_][a-zA-Z0-9_-]{0,8}".prop_map(|name| ("policy", name)),
        select(vec!["True", "False"]).prop_map(|flag| ("expandable_segments", flag.into())),
        select(vec!["native", "cudaMallocAsync"]).prop_map(|word| ("backend", word.into())),
    ])
}

/// The entries of a valid string: any keys in any order.
fn entries() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    (values(), policies())
        .prop_flat_map(|(mut values, policy)| {
            values.extend(policy);
            let count = values.len();
            subsequence(values, 0..=count)
        })
        .prop_shuffle()
}

/// Text made of pieces of the grammar, which gets further than random characters do.
fn almost_conf() -> impl Strategy<Value = String> {
    let keys: Vec<String> = options().iter().map(|spec| spec.key.to_owned()).collect();
    let piece = prop_oneof![
        4 => select(keys),
        4 => select(vec![",", ":", "[", "]", " ", ">"]).prop_map(str::to_owned),
        4 => select(vec!["True", "False", "64", "0.5", "0", "-1", "1e400", "32G", "native"])
            .prop_map(str::to_owned),
        1 => any::<u64>().prop_map(|number| number.to_string()),
        1 => any::<f64>().prop_map(|number| number.to_string()),
        1 => "\\PC{0,4}",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn valid_strings_print_their_keys_and_read_back(
        entries in entries(),
        space in "[ \t\n]{0,2}",
        comma in any::<bool>(),
    ) {
        let items: Vec<_> =
            entries.iter().map(|(k, v)| format!("{space}{k}{space}:{v}{space}")).collect();
        let tail = if comma && !items.is_empty() { "," } else { "" };
        let text = items.join(",") + tail;
        let conf: Conf = text.parse().map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
        for (key, _) in &entries {
            prop_assert!(conf.is_set(key));
        }
        let printed = conf.to_string();
        let again: Conf = printed.parse().unwrap();
        prop_assert_eq!(&again, &conf);
        prop_assert_eq!(again.to_string(), printed);
        let mut merged = Conf::default();
        merged.merge(&conf).unwrap();
        prop_assert_eq!(merged, conf);
    }

    #[test]
    fn any_merge_is_valid_or_changes_nothing(left in entries(), right in entries()) {
        let join = |entries: &[(&str, String)]| -> Conf {
            let items: Vec<_> = entries.iter().map(|(k, v)| format!("{k}:{v}")).collect();
            items.join(",").parse().unwrap()
        };
        let (left, right) = (join(&left), join(&right));
        let mut merged = left.clone();
        match merged.merge(&right) {
            Ok(()) => prop_assert_eq!(merged.to_string().parse::<Conf>().unwrap(), merged),
            Err(_) => prop_assert_eq!(merged, left),
        }
    }

    #[test]
    fn no_string_panics(text in any::<String>()) {
        let _ = text.parse::<Conf>();
    }

    #[test]
    fn no_string_of_conf_pieces_panics_and_those_that_read_round_trip(text in almost_conf()) {
        if let Ok(conf) = text.parse::<Conf>() {
            prop_assert_eq!(conf.to_string().parse::<Conf>().unwrap(), conf);
        }
    }

    #[test]
    fn no_setting_panics(
        index in 0..options().len(),
        value in almost_conf(),
        size in any::<u64>(),
    ) {
        let mut conf = Conf::default();
        for value in [value, size.to_string()] {
            if conf.set(options()[index].key, &value).is_ok() {
                prop_assert_eq!(conf.to_string().parse::<Conf>().unwrap(), conf.clone());
                let rounded = conf.roundup_power2_divisions.round(size);
                prop_assert!(rounded >= size && (rounded % 512 == 0 || rounded == u64::MAX));
            }
        }
    }

    #[test]
    fn limits_in_bytes_print_exactly(limit in 1..=u64::MAX, pinned in 1..=u64::MAX) {
        let conf = Conf::default().with_limit_bytes(limit).unwrap();
        let conf = conf.with_pinned_limit_bytes(pinned).unwrap();
        prop_assert_eq!((conf.limit_bytes, conf.pinned_limit_bytes), (Some(limit), Some(pinned)));
        prop_assert_eq!(conf.to_string().parse::<Conf>().unwrap(), conf);
    }
}
