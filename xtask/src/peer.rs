//! The virtiofsd to compare with: `bench` measures beside it, `conformance` runs the suites on it
//! too.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{binaries, command, paths, provision};

/// Its version on crates.io.
const VERSION: &str = "1.14.0";
/// What building it takes: a header, and the Debian package that holds it.
const HEADERS: &[(&str, &str)] = &[
    ("/usr/include/cap-ng.h", "libcap-ng-dev"),
    ("/usr/include/seccomp.h", "libseccomp-dev"),
];

/// Where `$AIRLOCKFS_PEER` says it is.
pub fn named() -> Option<PathBuf> {
    std::env::var_os("AIRLOCKFS_PEER").map(PathBuf::from)
}

/// The virtiofsd that [`named`] finds, or one under `target/peer/`, which it builds if necessary.
pub fn get() -> Result<PathBuf> {
    if let Some(path) = named() {
        return Ok(path);
    }
    let root = paths::target().join("peer");
    let binary = root.join("bin/virtiofsd");
    if binary.is_file() {
        return Ok(binary);
    }
    let lacking = HEADERS.iter().filter(|(header, _)| !Path::new(header).exists());
    provision::packages(&lacking.map(|(_, package)| *package).collect::<Vec<_>>())?;
    println!(
        "installing virtiofsd {VERSION} from crates.io into {}",
        root.display()
    );
    let mut install = binaries::cargo();
    install.args(["install", "virtiofsd", "--version", VERSION, "--locked", "--root"]);
    command::run(install.arg(&root))?;
    Ok(binary)
}
