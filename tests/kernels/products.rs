//! The products of the device code: of these sources, whole, and for the GPUs they are said to
//! be for. What a failure asks for is `scripts/make-kernels`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::elf::Elf;

#[derive(Deserialize)]
struct Manifest {
    compiler: String,
    sources: Vec<Source>,
    products: Vec<Product>,
}

#[derive(Deserialize)]
struct Source {
    file: String,
    sha256: String,
}

#[derive(Deserialize)]
struct Product {
    file: String,
    target: String,
    sha256: String,
    flags: String,
}

/// All functions of `kernels/riverbed.cu`.
const FUNCTIONS: [&str; 9] = [
    "riverbed_busy",
    "riverbed_cast",
    "riverbed_checksum",
    "riverbed_checksum_start",
    "riverbed_dequantise",
    "riverbed_fill",
    "riverbed_gather",
    "riverbed_patch",
    "riverbed_patch_singly",
];

/// Files of `kernels/` that no product is made of.
const NO_SOURCES: [&str; 2] = ["README.md", "emulate.cpp"];

/// AMD's numbers for its GPUs in ELF flags, from LLVM's "User Guide for AMDGPU Backend".
const MACHINES: [(&str, u32); 15] = [
    ("gfx906", 0x2f),
    ("gfx908", 0x30),
    ("gfx90a", 0x3f),
    ("gfx942", 0x4c),
    ("gfx1030", 0x36),
    ("gfx1100", 0x41),
    ("gfx1101", 0x46),
    ("gfx1102", 0x47),
    ("gfx1200", 0x48),
    ("gfx1201", 0x4e),
    ("gfx9-generic", 0x51),
    ("gfx10-1-generic", 0x52),
    ("gfx10-3-generic", 0x53),
    ("gfx11-generic", 0x54),
    ("gfx12-generic", 0x59),
];

fn kernels() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

fn manifest() -> Manifest {
    let text = fs::read_to_string(kernels().join("gen/manifest.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn read(product: &Product) -> Vec<u8> {
    fs::read(kernels().join("gen").join(&product.file)).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn files(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(kernels().join(folder)).unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

fn ptx() -> String {
    fs::read_to_string(kernels().join("gen/riverbed.ptx")).unwrap()
}

#[test]
fn products_are_of_these_sources() {
    let manifest = manifest();
    assert!(!manifest.compiler.is_empty());
    for Source { file, sha256: expected } in &manifest.sources {
        let source = fs::read(kernels().join(file)).unwrap();
        assert_eq!(sha256(&source), *expected, "{file} changed: run scripts/make-kernels");
    }
    let mut known: BTreeSet<String> =
        manifest.sources.iter().map(|source| source.file.clone()).collect();
    known.extend(NO_SOURCES.map(String::from));
    assert_eq!(files(""), known, "all files of kernels/ are sources or said to be none");
}

#[test]
fn products_are_those_that_were_made() {
    let manifest = manifest();
    for product in &manifest.products {
        assert_eq!(sha256(&read(product)), product.sha256, "{}", product.file);
        assert!(!product.flags.is_empty());
    }
    let mut known: BTreeSet<String> =
        manifest.products.iter().map(|product| product.file.clone()).collect();
    known.insert("manifest.json".into());
    assert_eq!(files("gen"), known);
}

#[test]
fn the_ptx_has_all_functions_and_any_driver_takes_it() {
    let text = ptx();
    let word_after = |directive: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(directive)).unwrap();
        line.trim().to_owned()
    };
    let version: Vec<u32> =
        word_after(".version").split('.').map(|part| part.parse().unwrap()).collect();
    assert!(version <= vec![4, 3], "PTX {version:?} is newer than drivers of CUDA 7.5 take");
    let target: u32 = word_after(".target").strip_prefix("sm_").unwrap().parse().unwrap();
    assert!(target <= 52, "sm_{target}");
    assert_eq!(word_after(".address_size"), "64");
    let functions: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix(".visible .entry ")?.split('(').next())
        .collect();
    assert_eq!(functions, BTreeSet::from(FUNCTIONS));
    assert!(!text.contains(".local"), "something does not fit into registers");
    assert!(!text.contains(".ftz"), "denormals are flushed");
    assert!(!text.contains("fma.rn.f32"), "sums and products are rounded together");
}

#[test]
fn code_objects_are_for_their_gpu_and_have_all_functions() {
    const AMDGPU: u16 = 224;
    const AMDGPU_HSA: u8 = 64;
    /// Bytes of a kernel descriptor.
    const DESCRIPTOR: u64 = 64;
    let products = manifest().products;
    let objects = products.iter().filter(|product| product.file.ends_with(".hsaco"));
    let mut targets = BTreeSet::new();
    for object in objects {
        let Product { file, target, .. } = object;
        assert_eq!(*file, format!("{target}.hsaco"));
        let bytes = read(object);
        let elf = Elf::new(&bytes);
        assert_eq!((elf.machine(), elf.abi().0), (AMDGPU, AMDGPU_HSA), "{file}");
        // Versions 4 and 6 of the code object.
        let version = if target.ends_with("-generic") { 4 } else { 2 };
        assert_eq!(elf.abi().1, version, "{file}");
        let machine = MACHINES.iter().find(|(name, _)| name == target).unwrap().1;
        assert_eq!(elf.flags() & 0xff, machine, "{file}");
        let symbols = elf.symbols();
        for function in FUNCTIONS {
            let size = |name: &str| symbols.iter().find(|(other, _)| other == name).map(|s| s.1);
            assert!(size(function).is_some_and(|bytes| bytes > 0), "{file}: {function}");
            assert_eq!(size(&format!("{function}.kd")), Some(DESCRIPTOR), "{file}: {function}");
        }
        targets.insert(target.as_str());
    }
    assert_eq!(targets, BTreeSet::from(MACHINES.map(|(name, _)| name)));
}

/// The first of the programs that is there.
fn program(names: &[&'static str]) -> Option<&'static str> {
    let is_there = |name: &&&str| Command::new(name).arg("--version").output().is_ok();
    let found = names.iter().find(is_there);
    if found.is_none() {
        // Past the harness, which shows only what failing tests print.
        let _ = writeln!(std::io::stderr(), "skipped: there is no {}", names.join(" and no "));
    }
    found.copied()
}

#[test]
fn the_ptx_assembles() {
    let Some(ptxas) = program(&["ptxas"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let known = Command::new(ptxas).arg("--help").output().unwrap().stdout;
    let known = String::from_utf8_lossy(&known).into_owned();
    let targets = ["sm_50", "sm_52", "sm_75", "sm_80", "sm_90", "sm_100", "sm_120"];
    let mut assembled = 0;
    for target in targets.iter().filter(|target| known.contains(&format!("'{target}'"))) {
        let output = Command::new(ptxas)
            .args(["-arch", target])
            .arg(kernels().join("gen/riverbed.ptx"))
            .arg("-o")
            .arg(folder.path().join("cubin"))
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{target}: {complaint}");
        assembled += 1;
    }
    assert!(assembled > 0, "ptxas knows none of {targets:?}");
}

#[test]
fn code_objects_need_no_scratch_memory_and_name_their_target() {
    let Some(readelf) = program(&["llvm-readelf-19", "llvm-readelf"]) else { return };
    for product in manifest().products {
        if !product.file.ends_with(".hsaco") {
            continue;
        }
        let output = Command::new(readelf)
            .arg("--notes")
            .arg(kernels().join("gen").join(&product.file))
            .output()
            .unwrap();
        let notes = String::from_utf8_lossy(&output.stdout).into_owned();
        let values = |key: &str| -> Vec<String> {
            let lines = notes.lines().filter_map(|line| line.trim().strip_prefix(key));
            lines.map(|value| value.trim().to_owned()).collect()
        };
        let target = format!("amdgcn-amd-amdhsa--{}", product.target);
        assert_eq!(values("amdhsa.target:"), [target]);
        let scratch = values(".private_segment_fixed_size:");
        assert_eq!(scratch, ["0"; FUNCTIONS.len()], "{}", product.file);
    }
}
