//! The `riverbed` command line.

fn main() {}
