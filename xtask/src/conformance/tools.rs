//! Installs the suites' programs from crates.io under `target/tools/`, once per version.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::suites::Suite;
use crate::{binaries, command, paths};

/// Installs what these suites lack.
pub(super) fn install(suites: &[&Suite]) -> Result<()> {
    for (name, version) in suites.iter().flat_map(|suite| suite.crates) {
        let root = root(name, version);
        if root.join("bin").join(name).is_file() {
            continue;
        }
        println!(
            "installing {name} {version} from crates.io into {}",
            root.display()
        );
        fs::create_dir_all(&root)?;
        command::run(
            binaries::cargo()
                .args(["install", "--quiet", "--locked", "--version", version, "--root"])
                .args([&root])
                .arg(name),
        )?;
    }
    Ok(())
}

/// The directory that holds a suite's installed programs, for `PATH`.
pub(super) fn directories(suite: &Suite) -> Vec<PathBuf> {
    let bin = |(name, version): &(&str, &str)| root(name, version).join("bin");
    suite.crates.iter().map(bin).collect()
}

fn root(name: &str, version: &str) -> PathBuf {
    paths::target().join("tools").join(format!("{name}-{version}"))
}
