//! Modules, given as PTX text, and launches.

use std::ffi::c_char;

use riverbed_fake_core::status::{INVALID_IMAGE, INVALID_PTX, INVALID_VALUE, PTX_VERSION};
use riverbed_fake_core::{Answer, In, Out, misuse, text};

use crate::exports;

exports! {
    fn cuModuleLoadData(module: Out<u64>, image: In<c_char>) Context |fake| {
        let functions = entries(&text(image)?, fake.version())?;
        module.put(fake.load_module(functions)?)
    };
    fn cuModuleUnload(module: u64) Context |fake| fake.unload_module(module);
    fn cuModuleGetFunction(function: Out<u64>, module: u64, name: In<c_char>) Context |fake|
        function.put(fake.function(module, &text(name)?)?);
    fn cuLaunchKernel(function: u64, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: u64, parameters: In<In<u64>>, extra: In<u64>) Context |fake| {
        if !extra.is_null() || shared != 0 {
            let words = "extra parameters or shared memory, which no kernel takes";
            return Err(misuse("invalid_argument", words, INVALID_VALUE));
        }
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        fake.launch(function, grid, block, stream, parameters)
    };
}

/// The names of a PTX text's kernels, if the driver is new enough for it.
fn entries(ptx: &str, driver: i32) -> Answer<Vec<String>> {
    let Some(version) = ptx.lines().find_map(|line| line.trim().strip_prefix(".version ")) else {
        return Err(misuse("invalid_argument", "no PTX text", INVALID_IMAGE));
    };
    let version = version.trim().split_once('.');
    let parsed =
        version.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let version: (i32, i32) = parsed.ok_or(INVALID_PTX)?;
    // Since CUDA 11 the major numbers are four apart; the minor ones agree.
    let newest = (driver / 1000 - 4, driver % 1000 / 10);
    if driver >= 11_000 && version > newest {
        return Err(PTX_VERSION);
    }
    let names = ptx.split(".entry").skip(1).map(|rest| {
        let rest = rest.trim_start();
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        rest[..end].to_string()
    });
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        Err(misuse("invalid_argument", "PTX without kernels", INVALID_PTX))
    } else {
        Ok(names)
    }
}
