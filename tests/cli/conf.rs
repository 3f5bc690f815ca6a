//! `riverbed conf`, and confs in force while streaming.

use super::process::{Place, fail, json, path, succeed};
use super::streaming::{Content, assert_says};

#[test]
fn a_string_is_explained_key_by_key() {
    let text = succeed(&["conf", "max_split_size_mb:64,garbage_collection_threshold:0.8"]);
    assert_says(&text, &["KEY", "VALUE", "max_split_size_mb", "64", "0.8", "WHAT IT DOES"]);
    let value = json(&["conf", "--json", "max_split_size_mb:64"]);
    assert_eq!(value["conf"], "max_split_size_mb:64");
    let options = value["options"].as_array().unwrap();
    let option = options.iter().find(|option| option["key"] == "max_split_size_mb").unwrap();
    assert_eq!(option["value"], "64");
    assert!(options.len() > 10);
}

#[test]
fn a_string_of_defaults_prints_all_keys() {
    let value = json(&["conf", "--json"]);
    assert_eq!(value["conf"], "");
    let text = succeed(&["conf"]);
    for option in value["options"].as_array().unwrap() {
        assert_says(&text, &[option["key"].as_str().unwrap()]);
    }
}

#[test]
fn options_the_policy_does_not_read_are_shown_as_such() {
    let conf = "backend:cudaMallocAsync,max_split_size_mb:64";
    let text = succeed(&["conf", conf]);
    assert_says(&text, &["policy mempool", "[no effect under policy mempool]"]);
    let value = json(&["conf", "--json", conf]);
    for option in value["options"].as_array().unwrap() {
        if option["key"] == "max_split_size_mb" || option["key"] == "limit_mb" {
            assert_eq!(option["unread"], option["key"] == "max_split_size_mb", "{option}");
        }
    }
}

#[test]
fn a_string_is_explained_for_the_pool_of_the_whole_process() {
    let conf = "limit_mb:64,max_split_size_mb:64";
    let text = succeed(&["conf", "--process-pool", conf]);
    assert_says(&text, &["policy mempool", "[no effect on the process pool]"]);
    let value = json(&["conf", "--json", "--process-pool", conf]);
    assert_eq!((&value["process_pool"], &value["policy"]), (&true.into(), &"mempool".into()));
    for option in value["options"].as_array().unwrap() {
        if option["key"] == "max_split_size_mb" || option["key"] == "limit_mb" {
            assert_eq!(option["unread"], option["key"] == "max_split_size_mb", "{option}");
        }
    }
    assert_eq!(json(&["conf", "--json", conf])["process_pool"], false);
    fail(&["conf", "--process-pool", "policy:expandable"], 2, &["policy", "expandable"]);
}

#[test]
fn a_wrong_string_is_wrong_usage_and_names_key_value_and_range() {
    let key = "garbage_collection_threshold";
    fail(&["conf", &format!("{key}:1.5")], 2, &[key, "1.5", "0"]);
    fail(&["conf", "max_split_size_mb:few"], 2, &["max_split_size_mb", "few"]);
    fail(&["conf", "max_split_sise_mb:64"], 2, &["max_split_sise_mb", "max_split_size_mb"]);
    fail(&["conf", "--json", "max_split_size_mb"], 2, &["max_split_size_mb"]);
}

#[test]
fn the_environment_counts_below_the_string_and_pytorchs_only_on_request() {
    let place = Place::new();
    let conf = |arguments: &[&str], variable: &str, value: &str| {
        let output = place.command(arguments).env(variable, value).output().unwrap();
        assert!(output.status.success());
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        value["conf"].as_str().unwrap().to_owned()
    };
    let (own, theirs) = ("RIVERBED_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF");
    assert_eq!(conf(&["conf", "--json"], own, "max_split_size_mb:64"), "max_split_size_mb:64");
    let both = ["conf", "--json", "max_split_size_mb:128"];
    assert_eq!(conf(&both, own, "max_split_size_mb:64"), "max_split_size_mb:128");
    assert_eq!(conf(&["conf", "--json"], theirs, "max_split_size_mb:64"), "");
    let pool = ["conf", "--json", "--process-pool"];
    let below = "policy:mempool,limit_mb:8";
    assert_eq!(conf(&pool, own, "policy:expandable,limit_mb:8"), below, "but for its policy");
    let asked = ["conf", "--json", "--pytorch-env"];
    assert_eq!(conf(&asked, theirs, "max_split_size_mb:64"), "max_split_size_mb:64");
}

#[test]
fn a_run_obeys_the_environment_below_its_own_conf() {
    let place = Place::new();
    let content = Content::layers(&[&[700_000], &[700_000]]);
    let run = |more: &[&str], value: &str| {
        let stream = ["stream", path(&content.path), "--vram", "64MiB", "--json"];
        let mut command = place.command(&[&stream[..], more].concat());
        command.env("RIVERBED_ALLOC_CONF", value).output().unwrap()
    };
    let report = |more: &[&str], value: &str| {
        let output = run(more, value);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    assert_eq!(report(&[], "limit_mb:8")["limit_bytes"], 8 << 20);
    assert_eq!(report(&[], "pinned_limit_mb:3")["pinned_budget_bytes"], 3 << 20);
    let own = ["--conf", "pinned_limit_mb:5"];
    assert_eq!(report(&own, "pinned_limit_mb:3")["pinned_budget_bytes"], 5 << 20);
    let refused = run(&[], "limt_mb:8");
    assert_eq!(refused.status.code(), Some(2));
    assert_says(
        &String::from_utf8(refused.stderr).unwrap(),
        &["limt_mb", "limit_mb", "RIVERBED_ALLOC_CONF"],
    );
}
