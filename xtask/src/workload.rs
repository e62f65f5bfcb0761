//! The work that a guest does in a share, the host's half of it, and the comparison of what both
//! sides see.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::image::Program;
use crate::qemu::Vm;
use crate::{command, paths};

/// Time for a guest to boot and work: a few seconds on a free machine, much more on a busy one.
pub const LIMIT: Duration = Duration::from_secs(180);

/// The directory in the share that the guest works in.
const NAME: &str = "airlockfs-demo";

/// The workload's directory, as the host sees it.
#[derive(Debug)]
pub struct Workload {
    dir: PathBuf,
}

impl Workload {
    /// Makes the directory that the guest works in, with what the host puts there before the guest
    /// boots.
    pub fn prepare(shared: &Path) -> Result<Self> {
        let dir = shared.join(NAME);
        fs::create_dir(&dir)
            .with_context(|| format!("cannot make {} (left by an earlier demo?)", dir.display()))?;
        fs::write(
            dir.join("host.txt"),
            "written by the host before the guest booted\n",
        )?;
        fs::write(dir.join("change.txt"), "before\n")?;
        Ok(Self { dir })
    }

    /// What the guest runs: tests/guest/workload.sh, with `guest_tool` for what busybox cannot do.
    pub fn program(tag: &str, guest_tool: &Path) -> Result<Program> {
        let read = |name: &str| {
            let path = paths::guest_script(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let mut program = Program::new(tag, &format!("WORK={NAME}\n{}", read("workload.sh")?));
        program.tools = vec![
            guest_tool.to_path_buf(),
            paths::require("setfattr")?,
            paths::require("getfattr")?,
        ];
        program.files = vec![("/view.sh".to_owned(), read("view.sh")?.into_bytes())];
        Ok(program)
    }

    /// Hands each of the guest's steps to `show`, returns the guest's view. An error names the step
    /// that failed.
    ///
    /// Changes a file when the guest asks for it; before that, with the guest waiting, calls
    /// `meanwhile`.
    pub fn follow(
        &self,
        vm: &mut Vm,
        mut show: impl FnMut(&str),
        mut meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<Vec<String>> {
        let mut view = Vec::new();
        let mut failed = None;
        let status = vm.follow(LIMIT, |line| {
            match (line, line.strip_prefix("VIEW ")) {
                (_, Some(entry)) => view.push(entry.to_owned()),
                ("ASK", _) => {
                    meanwhile()?;
                    self.change()?;
                }
                _ => show(line),
            }
            if line.starts_with("  FAIL ") {
                failed = Some(line.trim().to_owned());
            }
            Ok(())
        })?;
        if status != 0 {
            bail!(
                "the guest's work ended with status {status}: {}",
                failed.unwrap_or_default()
            );
        }
        Ok(view)
    }

    /// Changes the file that the guest has read, once the guest has asked for it through the share.
    fn change(&self) -> Result<()> {
        if !self.dir.join("guest-ready").exists() {
            bail!("the guest has made guest-ready, and the host does not see it");
        }
        fs::write(self.dir.join("change.txt"), "after, and longer\n")?;
        Ok(fs::write(self.dir.join("host-done"), "")?)
    }

    /// Compares the guest's view with the host's, handing each line that both agree on to `show`.
    /// An error names the first that differs.
    pub fn compare(&self, guest: &[String], mut show: impl FnMut(&str)) -> Result<()> {
        let mut busybox = Command::new(paths::require("busybox")?);
        let host = command::output(
            busybox
                .arg("sh")
                .arg(paths::guest_script("view.sh"))
                .arg(&self.dir),
        )?;
        let mut guest = guest.iter();
        for line in host.lines() {
            match guest.next() {
                Some(other) if other == line => show(line),
                Some(other) => bail!("the host sees '{line}', the guest '{other}'"),
                None => bail!("the host sees '{line}', the guest nothing more"),
            }
        }
        if let Some(extra) = guest.next() {
            bail!("the guest sees '{extra}', the host nothing more");
        }
        let mut getfattr = Command::new(paths::require("getfattr")?);
        getfattr.args(["--absolute-names", "--only-values", "--name=user.airlock"]);
        let value = command::output(getfattr.arg(self.dir.join("notes.txt")))?;
        if value != "set in the guest" {
            bail!("the host sees '{value}' in the extended attribute that the guest set");
        }
        show(&format!(
            "notes.txt has the extended attribute user.airlock \"{value}\""
        ));
        Ok(())
    }
}
