//! Kernel modules: finds them, their dependencies, and the order to insert them in.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::kernel::Kernel;
use crate::paths;

/// A module as the guest inserts it.
#[derive(Debug)]
pub struct Module {
    /// Its name, with `_` for `-`.
    pub name: String,
    /// The uncompressed object.
    pub object: Vec<u8>,
}

/// The modules `wanted` and all they depend on, dependencies first. What the kernel has built in is
/// left out.
pub fn closure(kernel: &Kernel, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut files = HashMap::new();
    collect(&kernel.modules, &mut files)?;
    let list = kernel.modules.join("modules.builtin");
    let builtin: HashSet<String> = fs::read_to_string(&list)
        .with_context(|| format!("cannot read {}", list.display()))?
        .lines()
        .filter_map(|line| module_name(Path::new(line)))
        .collect();
    let mut search = Search {
        files,
        builtin,
        seen: HashSet::new(),
        ordered: Vec::new(),
    };
    for name in wanted {
        search.visit(name)?;
    }
    Ok(search.ordered)
}

struct Search {
    files: HashMap<String, PathBuf>,
    builtin: HashSet<String>,
    seen: HashSet<String>,
    ordered: Vec<Module>,
}

impl Search {
    fn visit(&mut self, name: &str) -> Result<()> {
        if self.builtin.contains(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(file) = self.files.get(name) else {
            bail!("the guest's kernel has no module {name}");
        };
        let object = read(file)?;
        for dependency in depends(&object) {
            self.visit(&dependency)?;
        }
        self.ordered.push(Module {
            name: name.to_owned(),
            object,
        });
        Ok(())
    }
}

/// Every module file beneath `dir`, by module name.
fn collect(dir: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else if let Some(name) = module_name(&entry.path()) {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

/// `virtio_pci` for `…/virtio-pci.ko` and `….ko.xz`; nothing for another file.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, rest) = file.split_once(".ko")?;
    (rest.is_empty() || rest == ".xz").then(|| name.replace('-', "_"))
}

/// The object, decompressed.
fn read(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|end| end == "xz") {
        let output = Command::new(paths::require("busybox")?)
            .arg("xzcat")
            .arg(file)
            .output()?;
        if !output.status.success() {
            bail!("cannot decompress {}", file.display());
        }
        return Ok(output.stdout);
    }
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The names in the object's `.modinfo`, where each entry is `key=value` and a NUL.
fn depends(object: &[u8]) -> Vec<String> {
    object
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="))
        .map(|list| String::from_utf8_lossy(list).into_owned())
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_the_kernel_spells_them() {
        assert_eq!(
            module_name(Path::new("a/virtio-rng.ko")).as_deref(),
            Some("virtio_rng")
        );
        assert_eq!(module_name(Path::new("a/fuse.ko.xz")).as_deref(), Some("fuse"));
        assert_eq!(module_name(Path::new("a/modules.order")), None);
    }

    #[test]
    fn dependencies_come_from_modinfo() {
        let object = b"\x7fELF\0license=GPL\0depends=virtio,virtio-ring\0name=x\0";
        assert_eq!(depends(object), ["virtio", "virtio_ring"]);
        assert!(depends(b"license=GPL\0depends=\0").is_empty());
    }
}
