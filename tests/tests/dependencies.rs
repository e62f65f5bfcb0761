//! What is linked into each binary: exactly the crates below, each with its reason, so that a new one is a decision.
//!
//! Procedural macros and build scripts run on the developer's machine and are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// In both binaries.
const BOTH: &[(&str, &str)] = &[
    ("airlockfs-ipc", "the boundary"),
    ("airlockfs-policy", "what each process may do"),
    ("bitflags", "nix's flag types"),
    ("caps", "capability sets"),
    ("cfg-if", "conditional compilation in nix"),
    ("cobs", "a framing that postcard links and we do not use"),
    ("enumflags2", "landlock's flag types"),
    ("landlock", "the Landlock ABI"),
    ("libc", "structures and numbers of the kernel ABI"),
    ("memoffset", "offsets of C structures, for nix"),
    ("nix", "typed system calls"),
    ("postcard", "the boundary's encoding"),
    ("seccompiler", "BPF programs from rules"),
    ("serde", "the boundary's types"),
    ("serde_core", "serde"),
    ("thiserror", "error types of caps and landlock"),
];

/// In the supervisor alone: the guest's side.
const SUPERVISOR: &[(&str, &str)] = &[
    ("airlockfsd", "itself"),
    ("anstream", "clap: colours of --help"),
    ("anstyle", "clap: colours of --help"),
    ("anstyle-parse", "clap: colours of --help"),
    ("anstyle-query", "clap: colours of --help"),
    (
        "arc-swap",
        "vm-memory: guest memory that is replaced while in use",
    ),
    ("block-buffer", "sha2"),
    ("chacha20", "uuid's random numbers"),
    ("clap", "the command line"),
    ("clap_builder", "clap"),
    ("clap_lex", "clap"),
    ("colorchoice", "clap: colours of --help"),
    ("cpufeatures", "chacha20"),
    ("crypto-common", "sha2"),
    ("digest", "sha2"),
    ("generic-array", "sha2"),
    ("getrandom", "uuid's random numbers"),
    ("is_terminal_polyfill", "clap: colours of --help"),
    ("itoa", "serde_json: integers"),
    ("linux-raw-sys", "rustix"),
    ("log", "messages of virtio-queue"),
    ("memchr", "serde_json: strings"),
    ("rand", "uuid's random numbers"),
    ("rand_core", "uuid's random numbers"),
    ("rustix", "terminal_size"),
    (
        "serde_json",
        "policies and audits as JSON, before and instead of serving",
    ),
    ("sha2", "digests that name policies"),
    ("strsim", "clap: 'did you mean'"),
    ("terminal_size", "clap: wraps --help"),
    ("typenum", "sha2"),
    ("utf8parse", "clap: colours of --help"),
    ("uuid", "vhost: names of shared objects"),
    ("vhost", "the vhost-user protocol"),
    ("virtio-bindings", "numbers of the virtio ABI"),
    ("virtio-queue", "virtqueues"),
    ("vm-memory", "guest memory"),
    ("vmm-sys-util", "event descriptors, for vhost"),
    ("zerocopy", "views of FUSE structures over bytes"),
    ("zmij", "serde_json: floating point numbers"),
];

/// In the worker alone: the file system's side.
const WORKER: &[(&str, &str)] = &[("airlockfs-worker", "itself"), ("hashbrown", "the inode table")];

/// The names of the crates linked into a package's binary.
fn linked(package: &str) -> Result<BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--locked",
            "--package",
            package,
            "--edges",
            "normal,no-proc-macro",
        ])
        .args(["--prefix", "none", "--format", "{p}"])
        .output()
        .context("cargo tree")?;
    ensure!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect())
}

/// Fails on a crate that is linked without a reason, and on a reason without a crate.
fn holds(package: &str, own: &[(&str, &str)]) -> Result<()> {
    let reasons: BTreeMap<&str, &str> = BOTH.iter().chain(own).copied().collect();
    let linked = linked(package)?;
    let unknown: Vec<_> = linked
        .iter()
        .filter(|name| !reasons.contains_key(name.as_str()))
        .collect();
    assert!(
        unknown.is_empty(),
        "{package} links {unknown:?}: state the reason here, or do without"
    );
    let gone: Vec<_> = reasons.keys().filter(|name| !linked.contains(**name)).collect();
    assert!(
        gone.is_empty(),
        "{package} no longer links {gone:?}: remove the reason"
    );
    assert!(reasons.values().all(|reason| !reason.is_empty()));
    Ok(())
}

#[test]
fn the_supervisor_links_what_its_list_says() -> Result<()> {
    holds("airlockfsd", SUPERVISOR)
}

#[test]
fn the_worker_links_what_its_list_says() -> Result<()> {
    holds("airlockfs-worker", WORKER)
}

#[test]
fn the_worker_has_nothing_that_speaks_to_guests() -> Result<()> {
    for name in linked("airlockfs-worker")? {
        let guest = ["vhost", "virtio", "vm-memory", "vmm-sys-util", "airlockfsd"];
        assert!(
            !guest.iter().any(|prefix| name.starts_with(prefix)),
            "the worker links {name}"
        );
    }
    Ok(())
}

#[test]
fn the_supervisor_has_nothing_that_opens_files_for_it() -> Result<()> {
    let openers = [
        "airlockfs-worker",
        "cap-std",
        "file-lock",
        "fs-err",
        "fs2",
        "fs4",
        "glob",
        "ignore",
        "jwalk",
        "notify",
        "openat",
        "openat2",
        "pathrs",
        "remove_dir_all",
        "same-file",
        "tempfile",
        "walkdir",
    ];
    for name in linked("airlockfsd")? {
        assert!(!openers.contains(&name.as_str()), "the supervisor links {name}");
    }
    Ok(())
}
