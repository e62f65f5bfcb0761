//! What is linked into each binary: exactly the crates below, each with its reason, so that a new one is a decision.
//!
//! Procedural macros and build scripts run on the developer's machine and are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// In all binaries.
const ALL: &[(&str, &str)] = &[
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

/// In those that read the command line and name policies.
const COMMAND_LINE: &[(&str, &str)] = &[
    ("airlockfs-options", "the options and what they mean"),
    ("anstream", "clap: colours of --help"),
    ("anstyle", "clap: colours of --help"),
    ("anstyle-parse", "clap: colours of --help"),
    ("anstyle-query", "clap: colours of --help"),
    ("block-buffer", "sha2"),
    ("clap", "the command line"),
    ("clap_builder", "clap"),
    ("clap_lex", "clap"),
    ("colorchoice", "clap: colours of --help"),
    ("cpufeatures", "sha2"),
    ("crypto-common", "sha2"),
    ("digest", "sha2"),
    ("generic-array", "sha2"),
    ("is_terminal_polyfill", "clap: colours of --help"),
    ("linux-raw-sys", "rustix"),
    ("log", "levels of --log-level; messages of virtio-queue"),
    ("rustix", "terminal_size"),
    ("sha2", "digests that name policies"),
    ("strsim", "clap: 'did you mean'"),
    ("terminal_size", "clap: wraps --help"),
    ("typenum", "sha2"),
    ("utf8parse", "clap: colours of --help"),
];

/// In the supervisor alone: the guest's side.
const SUPERVISOR: &[(&str, &str)] = &[
    ("airlockfsd", "itself"),
    (
        "arc-swap",
        "vm-memory: guest memory that is replaced while in use",
    ),
    ("chacha20", "uuid's random numbers"),
    ("getrandom", "uuid's random numbers"),
    ("rand", "uuid's random numbers"),
    ("rand_core", "uuid's random numbers"),
    ("uuid", "vhost: names of shared objects"),
    ("vhost", "the vhost-user protocol"),
    (
        "vhost-user-backend",
        "the vhost-user back end: its threads and the state of the rings",
    ),
    ("virtio-bindings", "numbers of the virtio ABI"),
    ("virtio-queue", "virtqueues"),
    ("vm-memory", "guest memory"),
    (
        "vmm-sys-util",
        "event descriptors, for vhost and vhost-user-backend",
    ),
    ("zerocopy", "views of FUSE structures over bytes"),
];

/// In airlockfsctl alone: what is shown, and what is read of others.
const CTL: &[(&str, &str)] = &[
    ("airlockfsctl", "itself"),
    ("itoa", "serde_json: integers"),
    ("memchr", "serde_json: strings"),
    ("serde_json", "policies and audits as JSON"),
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
fn holds(package: &str, lists: &[&[(&str, &str)]]) -> Result<()> {
    let reasons: BTreeMap<&str, &str> = lists.iter().copied().flatten().copied().collect();
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
    holds("airlockfsd", &[ALL, COMMAND_LINE, SUPERVISOR])
}

#[test]
fn the_worker_links_what_its_list_says() -> Result<()> {
    holds("airlockfs-worker", &[ALL, WORKER])
}

#[test]
fn airlockfsctl_links_what_its_list_says() -> Result<()> {
    holds("airlockfsctl", &[ALL, COMMAND_LINE, CTL])
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
