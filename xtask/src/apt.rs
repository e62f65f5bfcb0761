//! Packages of another Debian release, unpacked in a directory. The system's own packages and lists
//! stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, paths};

/// The keys that sign what Debian publishes, from the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where the system's apt finds Debian, and under which name it knows each suite.
const TARGETS: &str = "$(ORIGIN) $(CODENAME) $(REPO_URI)";

/// Some suites of Debian, such as `bookworm` and `bookworm-backports`, with lists of their own.
#[derive(Debug)]
pub struct Suites {
    root: PathBuf,
}

impl Suites {
    /// Fetches the lists of `suites`, once a run.
    ///
    /// # Errors
    /// The system's apt knows no Debian mirror, or the mirror cannot be reached.
    pub fn get(suites: &[&str]) -> Result<Self> {
        let root = paths::guest_cache().join("apt").join(suites.join("+"));
        for dir in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(root.join(dir))?;
        }
        let mirror = mirror()?;
        let lines = suites
            .iter()
            .map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"));
        fs::write(root.join("sources.list"), lines.collect::<String>())?;
        let suites_here = Self { root };
        println!("fetching the package lists of Debian's {}", suites.join(", "));
        command::output(suites_here.apt("apt-get").args(["update", "-qq"]))?;
        Ok(suites_here)
    }

    /// What a package of `suite` depends on.
    ///
    /// # Errors
    /// There is no such package.
    pub fn needs(&self, package: &str, suite: &str) -> Result<Vec<String>> {
        let mut show = self.apt("apt-cache");
        show.args(["show", "--no-all-versions", &format!("{package}/{suite}")]);
        let text = command::output(&mut show)?;
        let needs = text.lines().find_map(|line| line.strip_prefix("Depends: "));
        let first_word = |need: &str| need.split_whitespace().next().map(str::to_owned);
        Ok(needs
            .unwrap_or_default()
            .split(',')
            .filter_map(first_word)
            .collect())
    }

    /// Unpacks these packages in `at`, which then holds nothing else.
    ///
    /// # Errors
    /// One is not there, or cannot be downloaded.
    pub fn unpack(&self, packages: &[String], at: &Path) -> Result<()> {
        let fresh = fresh(at)?;
        println!("downloading {} into {}", packages.join(", "), at.display());
        let mut download = self.apt("apt-get");
        download.args(["download", "-qq"]).args(packages);
        command::output(download.current_dir(&fresh))?;
        extract(&fresh, &fresh)?;
        appear(&fresh, at)
    }

    /// Unpacks a package of `suite` in `at`, with all that it needs and the system lacks.
    ///
    /// # Errors
    /// As [`Self::unpack`].
    pub fn unpack_with_needs(&self, package: &str, suite: &str, at: &Path) -> Result<()> {
        let fresh = fresh(at)?;
        println!(
            "downloading {package} of {suite} and what it needs into {}: nothing is installed",
            at.display()
        );
        let mut get = self.apt("apt-get");
        get.args([
            "install",
            "-qq",
            "--yes",
            "--download-only",
            "--no-install-recommends",
        ]);
        command::output(get.args(["-t", suite, package]))?;
        extract(&self.root.join("cache/archives"), &fresh)?;
        appear(&fresh, at)
    }

    /// An apt program that knows these suites and no others. It takes no lock of the system's: it
    /// changes nothing there.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |name: &str| self.root.join(name).display().to_string();
        for option in [
            format!("Dir::Etc::SourceList={}", at("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::Languages=none".to_owned(),
            // The sandbox user may not write to a directory of ours.
            "APT::Sandbox::User=root".to_owned(),
            "Debug::NoLocking=true".to_owned(),
        ] {
            command.args(["--option", &option]);
        }
        command
    }
}

/// The Debian mirror that the system uses.
fn mirror() -> Result<String> {
    let targets = command::output(Command::new("apt-get").args(["indextargets", "--format", TARGETS]))?;
    targets
        .lines()
        .find_map(|line| {
            let mut words = line.split_whitespace();
            let (origin, codename, uri) = (words.next()?, words.next()?, words.next()?);
            (origin == "Debian" && !codename.ends_with("-security")).then(|| uri.to_owned())
        })
        .context("apt here knows no Debian mirror (apt-get update was never run, or this is no Debian)")
}

/// An empty directory beside `at`, for what is not complete yet.
fn fresh(at: &Path) -> Result<PathBuf> {
    let mut name = at.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = at.with_file_name(name);
    fs::create_dir_all(&fresh)?;
    Ok(fresh)
}

/// Unpacks the packages in `from` and removes them.
fn extract(from: &Path, to: &Path) -> Result<()> {
    let mut found = false;
    for entry in fs::read_dir(from)? {
        let archive = entry?.path();
        if archive.extension().is_some_and(|end| end == "deb") {
            command::run(Command::new("dpkg-deb").arg("--extract").args([&*archive, to]))?;
            fs::remove_file(&archive)?;
            found = true;
        }
    }
    if !found {
        bail!("apt left no package in {}", from.display());
    }
    Ok(())
}

/// Puts a directory in its place, whole.
fn appear(fresh: &Path, at: &Path) -> Result<()> {
    match fs::rename(fresh, at) {
        // Another run was faster: its copy is as good.
        Err(_) if at.is_dir() => Ok(fs::remove_dir_all(fresh)?),
        result => Ok(result?),
    }
}
