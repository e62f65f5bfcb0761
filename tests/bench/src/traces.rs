//! Work of real programs, on the daemon mounted through /dev/fuse: the host's kernel is the guest's, its caches are new.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::session::Sample;
use super::tree::Tree;
use super::variant::Variant;
use airlockfs_tests::bridge::{Bridge, BridgeConfig};
use airlockfs_tests::placement::{Placement, unpin};
use airlockfs_tests::procfs::Processes;
use airlockfs_tests::tempdir::TempDir;

/// Files of the repository and of the archive, in directories of [`PER_DIR`].
const FILES: usize = 1500;
const PER_DIR: usize = 20;
/// Packages of the tree of small files.
const PACKAGES: usize = 60;
/// Sources and headers of the build.
const SOURCES: usize = 60;
const HEADERS: usize = 80;
/// Directories that headers are looked for in; each holds some.
const INCLUDE_DIRS: usize = 4;

/// A trace.
pub struct Trace {
    /// As in the report.
    pub name: &'static str,
    /// What is done.
    pub about: &'static str,
    /// Makes what it needs, on the host: the tree's root.
    prepare: fn(&Path) -> Result<()>,
    /// The work: the tree's root on the host, and as mounted.
    run: fn(&Path, &Path) -> Result<()>,
}

/// All of them.
pub fn all() -> Vec<Trace> {
    vec![
        Trace {
            name: "git-status",
            about: "`git status` in a repository of 1,500 files",
            prepare: repository,
            run: |_, mounted| {
                git(
                    &mounted.join("repo"),
                    &["--no-optional-locks", "status", "--porcelain"],
                )
            },
        },
        Trace {
            name: "npm-tree",
            about: "a tree of 60 packages of 10 small files each is written, listed, read whole and removed",
            prepare: |_| Ok(()),
            run: |_, mounted| packages(&mounted.join("work/node_modules")),
        },
        Trace {
            name: "untar",
            about: "`tar -xf` of 1,500 files",
            prepare: archive,
            run: |host, mounted| {
                let target = mounted.join("work/untar");
                fs::create_dir(&target)?;
                let mut tar = Command::new("tar");
                tar.arg("-xf").arg(host.join("archive.tar")).arg("-C").arg(target);
                succeed(&mut tar)
            },
        },
        Trace {
            name: "build",
            about: "what make and a compiler ask of 60 sources with 80 headers in 4 directories: searches, reads, \
                    temporary files renamed to objects, a link of all",
            prepare: sources,
            run: |_, mounted| build(&mounted.join("src"), &mounted.join("work/out")),
        },
    ]
}

impl Trace {
    /// Makes what it needs in a tree, once.
    pub fn prepare(&self, tree: &Tree) -> Result<()> {
        (self.prepare)(tree.root()).with_context(|| format!("prepare {}", self.name))
    }

    /// One run on a fresh daemon. The rate is runs per second, CPU time and switches are the daemon's for the run.
    pub fn measure(&self, variant: &Variant, tree: &Tree, placement: Placement) -> Result<Sample> {
        let place = TempDir::new()?;
        unpin(0)?;
        let daemon = variant.launch(1)?.share(tree.root()).start();
        let processes = Processes::below(daemon.supervisor().pid())?;
        placement.pin_daemon(&processes)?;
        // The bridge's threads and the programs inherit it.
        placement.pin_front_end()?;
        let config = BridgeConfig {
            queues: Some(1),
            ..BridgeConfig::default()
        };
        let bridge = Bridge::mount(daemon.socket(), &place, &config)?;
        placement.pin_daemon(&processes)?;
        let before = processes.usage()?;
        let begin = Instant::now();
        let done = (self.run)(tree.root(), &place);
        let wall = begin.elapsed();
        let after = processes.usage()?;
        let memory = processes.memory()?;
        bridge.unmount()?;
        unpin(0)?;
        done?;
        Ok(Sample {
            rate: 1.0 / wall.as_secs_f64(),
            cpu: (after.cpu - before.cpu).as_secs_f64() * 1e6,
            switches: after.switches.saturating_sub(before.switches) as f64,
            private: memory.private as f64,
            pss: memory.pss as f64,
            ..Sample::default()
        })
    }
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {said}",
        output.status
    );
    Ok(())
}

fn git(dir: &Path, arguments: &[&str]) -> Result<()> {
    let mut git = Command::new("git");
    git.arg("-C").arg(dir).args(arguments);
    // Neither the user's settings nor a repository around ours.
    git.env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_CEILING_DIRECTORIES", "/");
    succeed(&mut git)
}

/// Files in directories, of 1 to 8 KiB.
fn files(root: &Path) -> Result<()> {
    for i in 0..FILES {
        let dir = root.join(format!("dir{}", i / PER_DIR));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("file{i}.txt")), text(i))?;
    }
    Ok(())
}

fn text(i: usize) -> String {
    format!("a line of file {i}\n").repeat(50 + i * 37 % 400)
}

fn repository(root: &Path) -> Result<()> {
    let repo = root.join("repo");
    files(&repo)?;
    git(&repo, &["init", "--quiet"])?;
    git(&repo, &["add", "."])?;
    git(
        &repo,
        &[
            "-c",
            "user.name=bench",
            "-c",
            "user.email=bench@example.org",
            "commit",
            "--quiet",
            "-m",
            "files",
        ],
    )
}

fn archive(root: &Path) -> Result<()> {
    let dir = root.join("archive");
    files(&dir)?;
    let mut tar = Command::new("tar");
    succeed(
        tar.arg("-cf")
            .arg(root.join("archive.tar"))
            .arg("-C")
            .arg(&dir)
            .arg("."),
    )
}

fn packages(root: &Path) -> Result<()> {
    for package in 0..PACKAGES {
        let dir = root.join(format!("package{package}/lib"));
        fs::create_dir_all(&dir)?;
        for file in 0..10 {
            fs::write(dir.join(format!("module{file}.js")), text(file))?;
        }
    }
    let mut bytes = 0;
    for package in fs::read_dir(root)? {
        for file in fs::read_dir(package?.path().join("lib"))? {
            let file = file?;
            ensure!(file.metadata()?.is_file(), "a file");
            bytes += fs::read(file.path())?.len();
        }
    }
    ensure!(bytes > 0, "files with content");
    fs::remove_dir_all(root)?;
    Ok(())
}

fn sources(root: &Path) -> Result<()> {
    let src = root.join("src");
    for i in 0..INCLUDE_DIRS {
        fs::create_dir_all(src.join(format!("include{i}")))?;
    }
    for i in 0..HEADERS {
        fs::write(
            src.join(format!("include{}/header{i}.h", i % INCLUDE_DIRS)),
            text(i),
        )?;
    }
    for i in 0..SOURCES {
        fs::write(src.join(format!("source{i}.c")), text(i))?;
    }
    Ok(())
}

fn build(src: &Path, out: &Path) -> Result<()> {
    fs::create_dir(out)?;
    let read = |path: &Path| -> Result<Vec<u8>> {
        let mut data = Vec::new();
        File::open(path)?.read_to_end(&mut data)?;
        Ok(data)
    };
    for i in 0..SOURCES {
        let object = out.join(format!("source{i}.o"));
        let source = src.join(format!("source{i}.c"));
        // make: what is newer?
        ensure!(
            fs::metadata(&source)?.is_file() && fs::metadata(&object).is_err(),
            "nothing is built yet"
        );
        let mut code = read(&source)?;
        for j in 0..HEADERS / 4 {
            let name = format!("header{}.h", (i + j * 3) % HEADERS);
            let found = (0..INCLUDE_DIRS).map(|dir| src.join(format!("include{dir}")).join(&name));
            let header = found.into_iter().find_map(|path| File::open(path).ok());
            header.context("a header")?.read_to_end(&mut code)?;
        }
        code.truncate(24 << 10);
        let temporary = out.join(format!("source{i}.tmp"));
        File::create(&temporary)?.write_all(&code)?;
        fs::rename(&temporary, &object)?;
        fs::write(out.join(format!("source{i}.d")), "dependencies\n")?;
    }
    let mut program = File::create(out.join("program"))?;
    for i in 0..SOURCES {
        program.write_all(&read(&out.join(format!("source{i}.o")))?)?;
    }
    Ok(())
}
