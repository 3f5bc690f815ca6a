//! Tells the binary what it was built for (`riverbed --version` shows it). Needs no GPU toolkit,
//! downloads nothing, and cannot fail.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").unwrap_or_else(|_| "unknown target".into());
    println!("cargo::rustc-env=RIVERBED_TARGET={target}");
}
