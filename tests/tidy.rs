//! Tests about the source itself: floors, unsafe code, leftovers, and lists that must be whole.

use std::fs;
use std::path::{Path, PathBuf};

/// Every module of `src/` and its floor; a module imports only from lower ones. Modules that
/// are planned stand here too, so that their place is settled before they come.
const RANKS: &[(&str, u32)] = &[
    ("base", 0),
    ("conf", 1),
    ("event", 1),
    ("ledger", 1),
    ("pack", 1),
    ("weights", 1),
    ("device", 2),
    ("plan", 2),
    ("modes", 3),
    ("policy", 3),
    ("fence", 3),
    ("pool", 4),
    ("pinned", 5),
    ("process_pool", 5),
    ("transfer", 6),
    ("prefetch", 7),
    ("offload", 8),
    ("report", 8),
    ("replay", 9),
    ("selftest", 9),
    ("interop", 9),
    ("capi", 10),
];

/// Files outside `src/device/` that may hold unsafe code, with what they need it for.
const UNSAFE_FILES: &[(&str, &str)] = &[
    ("src/base/biased.rs", "a lock: shows what it guards"),
    ("src/fence/stream_key.rs", "its test wraps a handle no driver gave"),
    ("src/pool/allocator.rs", "declares `free_raw`; reads the threads' tallies"),
    ("src/pool/heap/hot.rs", "counts in the tally of the thread inside"),
    ("src/pool/shared.rs", "reads the threads' tallies"),
    ("src/pool/tally/mod.rs", "one thread writes, readers keep it out"),
    ("src/pool/buffer.rs", "launches kernels on its own memory"),
    ("src/pool/owned_pool.rs", "gives a pool of the driver up"),
    ("src/pool/paged.rs", "unmaps and gives back its own pages"),
    ("src/pool/mirrored.rs", "unmaps and gives back its own pages"),
    ("src/pool/expandable/driver.rs", "unmaps and gives back physical memory"),
    ("src/pool/stats_scope.rs", "reads counters while all heaps are held"),
    ("src/pool/release.rs", "gives segments back to the driver"),
    ("src/pinned/block.rs", "shows pinned memory as a slice"),
    ("src/pinned/adopted.rs", "registers and shows a caller's memory"),
    ("src/pinned/mapping.rs", "maps, touches and unmaps memory of its own"),
    ("src/pinned/slab.rs", "registers memory, and gives it back"),
    ("src/pinned/release.rs", "gives slabs nothing uses back"),
    ("src/pinned/shared.rs", "gives slabs back at the pool's end"),
    ("src/transfer/copy/adopted.rs", "enqueues copies"),
    ("src/transfer/copy/calibrate.rs", "copies between memory of its own"),
    ("src/transfer/copy/engine.rs", "enqueues copies"),
    ("src/transfer/copy/lane.rs", "enqueues copies"),
    ("src/transfer/copy/pageable.rs", "lends slices to the staging thread"),
    ("src/transfer/copy/queue.rs", "enqueues copies"),
    ("src/transfer/copy/slots.rs", "fills pinned slots and enqueues their copies"),
    ("src/transfer/copy/staging.rs", "gives sources to the staging thread"),
    ("src/transfer/copy/way.rs", "enqueues copies"),
    ("src/transfer/guests.rs", "shows memory that a driver is told of"),
    ("src/transfer/disk/cached.rs", "asks the page cache by system call"),
    ("src/transfer/disk/reader.rs", "reads files into pinned memory"),
    ("src/transfer/disk/ring.rs", "gives memory to the kernel to fill"),
    ("src/transfer/loader.rs", "enqueues copies"),
    ("src/transfer/parts.rs", "enqueues copies"),
    ("src/prefetch/loading.rs", "loads into its own places"),
    ("src/prefetch/aside.rs", "declares and makes loads to memory of others"),
    ("src/prefetch/memory.rs", "resizes memory nothing uses"),
    ("src/prefetch/resize.rs", "promises that nothing uses what goes"),
    ("src/prefetch/lease.rs", "shows and checks leased memory"),
    ("src/prefetch/arrival/mod.rs", "launches kernels on places it is given"),
    ("src/prefetch/arrival/patches.rs", "launches patches on places it is given"),
    ("src/prefetch/planned.rs", "hands places on to a transform"),
    ("src/prefetch/transform.rs", "launches casts on places it is given"),
    ("src/offload/experts/lease.rs", "checks leased memory"),
    ("src/offload/experts/slots.rs", "loads into its own slots"),
    ("src/offload/residents.rs", "shows resident memory"),
    ("src/offload/state.rs", "loads into its own pages"),
    ("src/offload/unit_lease.rs", "shows and checks leased memory"),
    ("src/offload/residents.rs", "loads and shows resident memory"),
    ("src/replay/clock.rs", "reads the processor's counter"),
    ("src/replay/target.rs", "frees blocks nothing uses"),
    ("src/selftest/lab/cleanup.rs", "gives back what checks took"),
    ("src/selftest/lab/events.rs", "gives events of the driver up"),
    ("src/selftest/lab/gates.rs", "gives gates of the driver up"),
    ("src/selftest/lab/memory.rs", "works on memory that is held"),
    ("src/selftest/lab/pinned.rs", "reads and writes pinned memory"),
    ("src/selftest/lab/pools.rs", "gives blocks and pools back"),
    ("src/selftest/lab/virtual_memory.rs", "gives pages and address space back"),
    ("src/selftest/lab/wide_copies.rs", "enqueues copies of memory that is held"),
];

/// A file of the project, by its path from the root.
struct Source {
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(dir: &str, extensions: &[&str]) -> Vec<Source> {
    let mut pending = vec![root().join(dir)];
    let mut found = Vec::new();
    while let Some(dir) = pending.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if extensions.iter().any(|wanted| path.extension().is_some_and(|e| e == *wanted))
            {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap().display().to_string();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn rust_files() -> Vec<Source> {
    ["src", "tests", "benches", "examples"]
        .iter()
        .flat_map(|dir| files_below(dir, &["rs"]))
        .collect()
}

fn rank(module: &str) -> Option<u32> {
    RANKS.iter().find(|(name, _)| *name == module).map(|&(_, rank)| rank)
}

/// The module of `src/` a path lies in; none for `lib.rs` and the binary.
fn module_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    let name = rest.split('/').next()?;
    let name = name.strip_suffix(".rs").unwrap_or(name);
    (name != "lib" && name != "bin").then_some(name)
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "{} problem(s):\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn imports_only_go_down_the_floors() {
    let mut problems = Vec::new();
    let mut seen = 0;
    for Source { path, text } in files_below("src", &["rs"]) {
        let Some(module) = module_of(&path) else { continue };
        let Some(own) = rank(module) else {
            problems.push(format!("{path}: module '{module}' has no rank"));
            continue;
        };
        let code =
            text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
        for (number, line) in code {
            for after in line.split("crate::").skip(1) {
                let name: String =
                    after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                seen += 1;
                // Items re-exported at the root come from the lowest floor.
                let other = if name == "Error" || name == "Result" { Some(0) } else { rank(&name) };
                let allowed = name == module || other.is_some_and(|other| other < own);
                if !allowed {
                    problems
                        .push(format!("{path}:{}: imports {name}, not a lower floor", number + 1));
                }
            }
        }
    }
    assert!(seen > 50, "the scan found only {seen} imports: it is broken");
    report(&problems);
}

#[test]
fn every_module_of_the_library_has_a_floor_and_exists() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(modules.len() > 5);
    for module in modules {
        assert!(rank(module).is_some(), "'{module}' has no rank");
        assert!(root().join("src").join(module).join("mod.rs").exists(), "'{module}' is no folder");
    }
}

#[test]
fn unsafe_code_stands_where_it_may_and_says_why() {
    let keyword = concat!("uns", "afe");
    let mut problems = Vec::new();
    for Source { path, text } in files_below("src", &["rs"]) {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            if !words.into_iter().any(|word| word == keyword) {
                continue;
            }
            let may = path.starts_with("src/device/")
                || UNSAFE_FILES.iter().any(|(file, _)| *file == path);
            if !may {
                problems.push(format!("{path}:{}: {keyword} outside the listed files", number + 1));
            }
            // A block, not a signature or a function type.
            let is_block = code.contains(&format!("{keyword} {{"));
            let is_impl = code.contains(&format!("{keyword} impl"));
            let explained = (0..=number).rev().take(8).any(|at| lines[at].contains("SAFETY:"));
            if (is_block || is_impl) && !explained {
                problems.push(format!("{path}:{}: no SAFETY comment", number + 1));
            }
        }
    }
    for (file, _) in UNSAFE_FILES {
        let text = fs::read_to_string(root().join(file)).unwrap_or_default();
        if !text.contains(keyword) {
            problems.push(format!("{file}: listed for {keyword} code, but has none"));
        }
    }
    report(&problems);
}

#[test]
fn nothing_is_left_open() {
    let markers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("dbg", "!("),
        concat!("#[ig", "nore"),
    ];
    let mut problems = Vec::new();
    for Source { path, text } in rust_files() {
        for (number, line) in text.lines().enumerate() {
            problems.extend(
                markers
                    .iter()
                    .filter(|marker| line.contains(**marker))
                    .map(|marker| format!("{path}:{}: {marker}", number + 1)),
            );
        }
    }
    report(&problems);
}

#[test]
fn no_path_of_a_machine_is_written_down() {
    let paths = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
        concat!("/Us", "ers/"),
        concat!("C:", "\\"),
    ];
    let mut sources = rust_files();
    sources.extend(files_below("docs", &["md"]));
    sources.extend(files_below("kernels", &["cu", "md"]));
    for name in ["README.md", "CHANGELOG.md", "Cargo.toml", "build.rs"] {
        let text = fs::read_to_string(root().join(name)).unwrap();
        sources.push(Source { path: name.into(), text });
    }
    for entry in fs::read_dir(root().join("scripts")).unwrap() {
        let path = entry.unwrap().path();
        sources.push(Source {
            text: fs::read_to_string(&path).unwrap(),
            path: path.display().to_string(),
        });
    }
    let found = sources.iter().flat_map(|Source { path, text }| {
        paths.iter().filter(|bad| text.contains(**bad)).map(move |bad| format!("{path}: {bad}"))
    });
    report(&found.collect::<Vec<_>>());
}

#[test]
fn the_library_prints_nothing_and_reads_little_of_the_environment() {
    let calls = [concat!("print", "ln!("), concat!("print", "!("), concat!("env::", "var")];
    let mut problems = Vec::new();
    for Source { path, text } in files_below("src", &["rs"]) {
        // The last asks where ROCm is installed.
        let may = ["src/conf/env.rs", "src/device/hip/mod.rs"];
        if path.starts_with("src/bin/") || may.contains(&path.as_str()) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let is_doc = line.trim_start().starts_with("//");
            if !is_doc && calls.iter().any(|call| line.contains(call)) {
                problems.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    report(&problems);
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let reasons = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let mut in_dependencies = false;
    let mut count = 0;
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies]");
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| in_dependencies) {
            count += 1;
            assert!(
                reasons.contains(&format!("| `{name}` |")),
                "docs/dependencies.md lacks {name}"
            );
        }
    }
    assert!(count > 10, "the scan found only {count} dependencies: it is broken");
}

#[test]
fn every_example_and_every_page_is_in_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for dir in ["examples", "docs"] {
        for Source { path, .. } in files_below(dir, &["rs", "md"]) {
            let nested = path.matches('/').count() > 1;
            assert!(nested || readme.contains(&path), "README.md does not name {path}");
        }
    }
}
