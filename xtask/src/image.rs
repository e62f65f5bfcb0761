//! The guest's initramfs: busybox, the modules, some programs of the host with their libraries, and
//! one script.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::{modules, paths};

/// What every guest inserts; dependencies follow by themselves.
const MODULES: &[&str] = &["virtio_pci", "virtiofs", "overlay"];

/// The line that ends a guest's run on its console, followed by the script's exit status.
pub const EXIT_LINE: &str = "AIRLOCK-EXIT ";

/// What /init says first, before any module is inserted.
pub const ALIVE_LINE: &str = "AIRLOCK-ALIVE";

/// What a guest does once it has booted.
#[derive(Debug, Clone)]
pub struct Program {
    /// The tag to mount at `/mnt`. Without one, `/mnt` is the script's.
    pub tag: Option<String>,
    /// A busybox `sh` script, run in `/` with the tag in `$TAG`.
    pub script: String,
    /// Programs of the host to take along, in `/tools`, which is in the guest's `PATH`. An applet
    /// that busybox has wins over a program of that name unless the script says `/tools/NAME`.
    pub tools: Vec<PathBuf>,
    /// More files: path in the guest and content. Mode 0755.
    pub files: Vec<(String, Vec<u8>)>,
    /// A shell on the console once the script has ended.
    pub shell: bool,
}

impl Program {
    /// A script that finds `tag` mounted at `/mnt`.
    pub fn new(tag: &str, script: &str) -> Self {
        Self {
            tag: Some(tag.to_owned()),
            script: script.to_owned(),
            tools: Vec::new(),
            files: Vec::new(),
            shell: false,
        }
    }
}

/// The archive to boot `program` with.
pub fn build(kernel: &Kernel, program: &Program) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["proc", "sys", "dev", "tmp", "mnt", "tools"] {
        archive.directory(dir);
    }
    // The kernel attaches /init's standard streams to it before anything is mounted.
    archive.device("/dev/console", 5, 1);

    let busybox = paths::require("busybox")?;
    add_program(&mut archive, "/bin/busybox", &busybox)?;
    let init = include_str!("../../tests/guest/init");
    archive.file("/init", 0o755, init.as_bytes());

    let mut order = String::new();
    for module in modules::closure(kernel, MODULES)? {
        let path = format!("/modules/{}.ko", module.name);
        archive.file(&path, 0o644, &module.object);
        order.push_str(&path);
        order.push('\n');
    }
    archive.file("/modules/order", 0o644, order.as_bytes());

    if let Some(tag) = &program.tag {
        archive.file("/etc/tag", 0o644, tag.as_bytes());
    }
    if program.shell {
        archive.file("/etc/shell", 0o644, b"");
    }
    archive.file("/script", 0o755, program.script.as_bytes());
    for (path, content) in &program.files {
        archive.file(path, 0o755, content);
    }
    for tool in &program.tools {
        let name = tool.file_name().unwrap_or_default().to_string_lossy();
        add_program(&mut archive, &format!("/tools/{name}"), tool)?;
    }
    Ok(archive.finish())
}

/// Adds a program of the host and the shared libraries that its loader names.
fn add_program(archive: &mut Archive, path: &str, program: &Path) -> Result<()> {
    let read = |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    archive.file(path, 0o755, &read(program)?);
    // `name => /path (address)`, or `/path (address)` for the loader. A static program prints
    // neither and ends with 1.
    let ldd = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd")?;
    for line in String::from_utf8_lossy(&ldd.stdout).lines() {
        let library = line.split_whitespace().find(|word| word.starts_with('/'));
        if let Some(library) = library {
            archive.file(library, 0o755, &read(Path::new(library))?);
        }
    }
    Ok(())
}
