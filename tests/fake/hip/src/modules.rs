//! Modules, given as code objects, and launches.

use std::ffi::c_char;

use riverbed_fake_core::status::{INVALID_VALUE, NO_BINARY};
use riverbed_fake_core::{In, Out, misuse, text};

use crate::code_object::CodeObject;
use crate::exports;

exports! {
    fn hipModuleLoadData(module: Out<u64>, image: In<c_char>) Context |fake| {
        let object = CodeObject::read(image.as_bytes())?;
        if !object.runs_on(fake.target()) {
            return Err(NO_BINARY);
        }
        module.put(fake.load_module(object.functions)?)
    };
    fn hipModuleUnload(module: u64) Context |fake| fake.unload_module(module);
    fn hipModuleGetFunction(function: Out<u64>, module: u64, name: In<c_char>) Context |fake|
        function.put(fake.function(module, &text(name)?)?);
    fn hipModuleLaunchKernel(function: u64, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: u64, parameters: In<In<u64>>, extra: In<u64>) Context |fake| {
        if !extra.is_null() || shared != 0 {
            let words = "extra parameters or shared memory, which no kernel takes";
            return Err(misuse("invalid_argument", words, INVALID_VALUE));
        }
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        fake.launch(function, grid, block, stream, parameters)
    };
}
