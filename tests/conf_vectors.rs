//! Conf strings whose fate in PyTorch 2.15 is known, and strings of our own keys.

use riverbed::Error;
use riverbed::conf::{Backend, CACHING, Conf, EXPANDABLE, MEMPOOL, Reserve, Source, Status};

const MIB: u64 = 1 << 20;

fn read(text: &str) -> Conf {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The key and reason with which `text` is refused.
fn refused(text: &str) -> (String, String) {
    match text.parse::<Conf>() {
        Err(Error::Conf { key, reason }) => (key, reason),
        other => panic!("{text}: {other:?}"),
    }
}

fn report_of(conf: &Conf, key: &str) -> riverbed::conf::OptionReport {
    conf.explain().into_iter().find(|report| report.key == key).unwrap()
}

#[test]
fn strings_that_pytorch_takes_and_that_are_well_formed_are_taken() {
    for (text, printed) in [
        ("", ""),
        (" \t\n", ""),
        ("max_split_size_mb:20", "max_split_size_mb:20"),
        (
            " max_split_size_mb : 64 , expandable_segments : True",
            "expandable_segments:True,max_split_size_mb:64",
        ),
        ("max_split_size_mb:20,", "max_split_size_mb:20"),
        ("large_segment_size_mb:11", "large_segment_size_mb:11"),
        (
            "max_split_size_mb:64,large_segment_size_mb:64",
            "max_split_size_mb:64,large_segment_size_mb:64",
        ),
        (
            "large_segment_size_mb:11,max_split_size_mb:12",
            "max_split_size_mb:12,large_segment_size_mb:11",
        ),
        ("garbage_collection_threshold:0.8", "garbage_collection_threshold:0.8"),
        ("roundup_power2_divisions:1", "roundup_power2_divisions:1"),
        ("roundup_power2_divisions:[256:0,>:4]", "roundup_power2_divisions:[256:0,>:4]"),
        ("roundup_power2_divisions:[512:4,256:2,]", "roundup_power2_divisions:[512:4,256:2]"),
        ("pinned_max_round_threshold_mb:0", "pinned_max_round_threshold_mb:0"),
        ("per_process_memory_fraction:0", "per_process_memory_fraction:0"),
        ("backend:hipMallocAsync", "backend:cudaMallocAsync"),
        ("release_lock_on_hipmalloc:True", "release_lock_on_cudamalloc:True"),
        ("pinned_use_hip_host_register:False", "pinned_use_cuda_host_register:False"),
        ("expandable_segments_reserve:0.50", "expandable_segments_reserve:0.5"),
        (
            "expandable_segments_reserve_by_class:[a:0.5, b:32G,]",
            "expandable_segments_reserve_by_class:[a:0.5,b:32G]",
        ),
    ] {
        let conf = read(text);
        assert_eq!(conf.to_string(), printed, "{text}");
        assert_eq!(read(printed), conf, "{text}");
    }
    assert_eq!(read(""), Conf::default());
}

/// Each row: the string, the key of the error and a part of its reason.
const REFUSED: [(&str, &str, &str); 55] = [
    // What PyTorch refuses as well.
    (",max_split_size_mb:20", ",", "leading or doubled comma"),
    ("max_split_size_mb:20,,backend:native", ",", "leading or doubled comma"),
    (
        "max_split_size_mb:19",
        "max_split_size_mb",
        "'19' is below large_segment_size_mb, which is 20",
    ),
    ("max_split_size_mb:abc", "max_split_size_mb", "'abc' is not a whole number"),
    ("large_segment_size_mb:10", "large_segment_size_mb", "'10' is too small; allowed: above 10"),
    ("max_non_split_rounding_mb:10", "max_non_split_rounding_mb", "'10' is below"),
    ("expandable_segments:", "expandable_segments", "no value"),
    ("expandable_segments", "expandable_segments", "no value"),
    (
        "\"expandable_segments:True\"",
        "\"expandable_segments",
        "did you mean 'expandable_segments'?",
    ),
    ("Expandable_Segments:True", "Expandable_Segments", "did you mean 'expandable_segments'?"),
    ("expandable_segments:true", "expandable_segments", "did you mean 'True'?); allowed: True or"),
    ("expandable_segments:1", "expandable_segments", "'1' is not a boolean"),
    ("garbage_collection_threshold:abc", "garbage_collection_threshold", "'abc'"),
    ("garbage_collection_threshold:0", "garbage_collection_threshold", "'0' is out of range"),
    ("garbage_collection_threshold:1", "garbage_collection_threshold", "above 0 and below 1"),
    ("per_process_memory_fraction:1.5", "per_process_memory_fraction", "'1.5' is out of range"),
    ("per_process_memory_fraction:-0.1", "per_process_memory_fraction", "0 to 1"),
    ("roundup_power2_divisions:0", "roundup_power2_divisions", "'0' divisions"),
    ("roundup_power2_divisions:[256:3]", "roundup_power2_divisions", "'3' divisions"),
    ("roundup_power2_divisions:[300:2]", "roundup_power2_divisions", "the size '300'"),
    ("roundup_power2_divisions:[256:2", "roundup_power2_divisions", "no closing ']'"),
    ("pinned_num_register_threads:0", "pinned_num_register_threads", "'0' is not a power of two"),
    ("pinned_num_register_threads:3", "pinned_num_register_threads", "'3' is not a power of two"),
    ("pinned_num_register_threads:256", "pinned_num_register_threads", "'256' is too large"),
    ("pinned_reserve_segment_size_mb:0", "pinned_reserve_segment_size_mb", "'0' is too small"),
    ("backend:foo", "backend", "'foo' is not a backend; allowed: native, cudaMallocAsync"),
    ("backend:cudamallocasync", "backend", "did you mean 'cudaMallocAsync'?"),
    ("foo:bar", "foo", "unknown key"),
    ("foo", "foo", "unknown key"),
    (
        "expandable_segments_reserve_by_class:[a]",
        "expandable_segments_reserve_by_class",
        "class 'a'",
    ),
    ("expandable_segments_reserve_by_class:[a:0.5", "expandable_segments_reserve_by_class", "']'"),
    // What PyTorch takes for something else, or ignores with a warning.
    ("max_split_size_mb:64.9", "max_split_size_mb", "'64.9' is not a whole number"),
    ("max_split_size_mb:-1", "max_split_size_mb", "'-1' is not a whole number"),
    ("max_split_size_mb:64MiB", "max_split_size_mb", "'64MiB' is not a whole number"),
    ("max_split_size_mb:6 4", "max_split_size_mb", "whitespace inside the value"),
    ("max_split _size_mb:64", "max_split _size_mb", "whitespace inside a key"),
    ("max_split_size_mb,64", "max_split_size_mb", "found ',' in place of ':'"),
    ("max_split_size_mb:20:backend:native", "max_split_size_mb", "separate entries with ','"),
    ("max_split_size_mb:[20]", "max_split_size_mb", "a list in"),
    ("garbage_collection_threshold:0.8x", "garbage_collection_threshold", "not a decimal number"),
    ("garbage_collection_threshold:nan", "garbage_collection_threshold", "not a decimal number"),
    ("per_process_memory_fraction:inf", "per_process_memory_fraction", "not a decimal number"),
    ("expandable_segments_reserve:-1", "expandable_segments_reserve", "'-1' is not above 0"),
    ("expandable_segments_reserve:32GB", "expandable_segments_reserve", "like 32G"),
    ("expandable_segments_reserve_by_class:0.5", "expandable_segments_reserve_by_class", "a list"),
    ("expandable_segments_reserve_by_class:[a:x]", "expandable_segments_reserve_by_class", "'x'"),
    ("max_split_size_mb:20,max_split_size_mb:20", "max_split_size_mb", "set twice"),
    (
        "release_lock_on_cudamalloc:True,release_lock_on_hipmalloc:True",
        "release_lock_on_hipmalloc",
        "'release_lock_on_cudamalloc' is set twice",
    ),
    (
        "policy:caching,expandable_segments:True",
        "policy",
        "policy:caching and expandable_segments:True",
    ),
    ("expandable_segments_handle_type:fd", "expandable_segments_handle_type", "remove it"),
    ("trace_alloc_max_entries:5", "trace_alloc_max_entries", "remove it"),
    ("roundup_bypass_threshold_mb:5", "roundup_bypass_threshold_mb", "roundup_power2_divisions"),
    // Our own.
    ("policy:a.b", "policy", "'a.b' is not a name"),
    ("limit_mb:0", "limit_mb", "'0' is too small; allowed: above 0"),
    ("limit_mb:0.3", "limit_mb", "'0.3' MiB is not a whole number of bytes"),
];

#[test]
fn everything_else_is_refused_with_its_reason() {
    for (text, key, part) in REFUSED {
        let (found_key, reason) = refused(text);
        assert_eq!(found_key, key, "{text}: {reason}");
        assert!(reason.contains(part), "{text}: {reason}");
    }
}

#[test]
fn sizes_that_do_not_fit_64_bits_are_refused_for_every_key_in_mib() {
    let keys: Vec<_> =
        riverbed::conf::options().iter().filter(|s| s.key.ends_with("_mb")).collect();
    assert_eq!(keys.len(), 9);
    for spec in keys {
        for value in ["17592186044416", "18446744073709551616", "99999999999999999999999"] {
            let (_, reason) = refused(&format!("{}:{value}", spec.key));
            assert!(reason.contains("is too large"), "{}: {reason}", spec.key);
        }
    }
    assert_eq!(
        read("max_split_size_mb:17592186044415").max_split_size_bytes,
        Some(u64::MAX - MIB + 1)
    );
}

#[test]
fn values_arrive_in_their_fields() {
    let conf = read(
        "max_split_size_mb:64,large_segment_size_mb:32,garbage_collection_threshold:0.5,\
         per_process_memory_fraction:0.25,throw_on_cudamalloc_oom:True,limit_mb:1.5,\
         pinned_limit_mb:7,pinned_num_register_threads:8,pinned_max_cached_size_mb:0,\
         expandable_segments_reserve:2G,expandable_segments_reserve_by_class:[a:0.5]",
    );
    assert_eq!(conf.max_split_size_bytes, Some(64 * MIB));
    assert_eq!(conf.large_segment_size_bytes, 32 * MIB);
    assert_eq!(conf.max_non_split_rounding_bytes, 32 * MIB, "follows the large segment");
    assert_eq!(conf.garbage_collection_threshold, Some(0.5));
    assert_eq!(conf.per_process_memory_fraction.to_bits(), 0.25f64.to_bits());
    assert!(conf.throw_on_cudamalloc_oom);
    assert_eq!(conf.limit_bytes, Some(3 * MIB / 2));
    assert_eq!(conf.pinned_limit_bytes, Some(7 * MIB));
    assert_eq!(conf.pinned_num_register_threads, Some(8));
    assert_eq!(conf.pinned_max_cached_size_bytes, Some(0));
    assert_eq!(conf.expandable_segments_reserve, Reserve::Bytes(2 << 30));
    assert_eq!(conf.expandable_segments_reserve_by_class, [("a".into(), Reserve::Fraction(0.5))]);
    let default = Conf::default();
    assert_eq!(default.max_non_split_rounding_bytes, 20 * MIB);
    assert_eq!((default.limit_bytes, default.policy()), (None, CACHING));
}

#[test]
fn each_spelling_of_a_policy_chooses_it_and_the_other_keys_agree() {
    for (text, policy, expandable, backend) in [
        ("", CACHING, false, Backend::Native),
        ("expandable_segments:True", EXPANDABLE, true, Backend::Native),
        ("policy:expandable", EXPANDABLE, true, Backend::Native),
        ("policy:expandable,backend:native", EXPANDABLE, true, Backend::Native),
        ("backend:cudaMallocAsync", MEMPOOL, false, Backend::MallocAsync),
        ("policy:mempool,expandable_segments:False", MEMPOOL, false, Backend::MallocAsync),
        ("policy:my-own_2", "my-own_2", false, Backend::Native),
    ] {
        let conf = read(text);
        assert_eq!(conf.policy(), policy, "{text}");
        assert_eq!((conf.expandable_segments, conf.backend), (expandable, backend), "{text}");
    }
    for text in [
        "policy:mempool,backend:native",
        "policy:expandable,expandable_segments:False",
        "policy:caching,backend:cudaMallocAsync",
        "backend:hipMallocAsync,expandable_segments:True",
        "policy:planned,expandable_segments:True",
    ] {
        assert!(refused(text).1.contains("choose different policies"), "{text}");
    }
}

#[test]
fn merging_lets_the_other_win_key_by_key_and_resets_nothing() {
    let mut conf = read("max_split_size_mb:64,garbage_collection_threshold:0.5");
    conf.merge(&read("max_split_size_mb:32,limit_mb:7")).unwrap();
    assert_eq!(
        conf.to_string(),
        "limit_mb:7,max_split_size_mb:32,garbage_collection_threshold:0.5"
    );
    let before = conf.clone();
    let error = conf.merge(&read("large_segment_size_mb:48")).unwrap_err();
    assert!(error.to_string().contains("'32' is below large_segment_size_mb, which is 48"));
    assert_eq!(conf, before, "a merge that fails changes nothing");
}

#[test]
fn merging_replaces_a_whole_choice_of_policy_only_where_the_two_differ() {
    for (base, over, merged) in [
        ("expandable_segments:True", "policy:caching", "policy:caching"),
        ("policy:caching", "expandable_segments:True", "expandable_segments:True"),
        ("policy:mempool", "backend:native", "backend:native"),
        ("policy:planned", "backend:native", "policy:planned,backend:native"),
        ("expandable_segments:True", "limit_mb:1", "expandable_segments:True,limit_mb:1"),
    ] {
        let mut conf = read(base);
        conf.merge(&read(over)).unwrap();
        assert_eq!(conf.to_string(), merged, "{base} + {over}");
    }
}

#[test]
fn setters_replace_print_exactly_and_leave_the_conf_alone_on_failure() {
    let mut conf = Conf::default()
        .with_policy("planned")
        .and_then(|conf| conf.with_limit_bytes(24_000_000_000))
        .and_then(|conf| conf.with_pinned_limit_bytes(1))
        .and_then(|conf| conf.with_max_split_size_bytes(64 * MIB))
        .unwrap();
    assert_eq!(conf.limit_bytes, Some(24_000_000_000));
    assert_eq!(read(&conf.to_string()), conf);
    conf.set("max_split_size_mb", "32").unwrap().set("max_split_size_mb", " 40 ").unwrap();
    assert_eq!(conf.max_split_size_bytes, Some(40 * MIB));
    assert_eq!(report_of(&conf, "max_split_size_mb").source, Source::Code);
    let before = conf.clone();
    for (key, value) in
        [("max_split_size_mb", "1"), ("max_split_size_mb", "40,"), ("limt_mb", "1"), ("policy", "")]
    {
        assert!(conf.set(key, value).is_err(), "{key}:{value}");
    }
    assert!(conf.clone().with_max_split_size_bytes(MIB * 64 + 1).is_err());
    assert!(conf.clone().with_limit_bytes(0).is_err());
    assert_eq!(conf, before);
}

#[test]
fn reports_give_value_source_and_status_and_serialise() {
    let conf = read("policy:expandable,release_lock_on_hipmalloc:True");
    assert!(conf.is_set("release_lock_on_hipmalloc") && !conf.is_set("limit_mb"));
    let lock = report_of(&conf, "release_lock_on_cudamalloc");
    assert_eq!((lock.value.as_str(), lock.source), ("True", Source::ConfString));
    assert!(matches!(lock.status, Status::ByDesign(_)));
    let implied = report_of(&conf, "expandable_segments");
    assert_eq!((implied.value.as_str(), implied.source), ("True", Source::Implied("policy")));
    let limit = report_of(&conf, "limit_mb");
    assert_eq!((limit.value.as_str(), limit.source), ("unlimited", Source::Default));
    let json = serde_json::to_value(conf.explain()).unwrap();
    assert_eq!(json[0]["key"], "policy");
    assert_eq!(json[0]["source"], "conf string");
    assert_eq!(json[0]["status"]["state"], "effective");
}
