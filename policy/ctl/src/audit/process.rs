//! A process as /proc shows it (proc(5)).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::look;

/// Most bytes that are read of one file in /proc: what stands there may be any process's choice.
const MOST: u64 = 4 << 20;

/// One of the pair.
pub(super) struct Process {
    pub(super) name: &'static str,
    pub(super) pid: i32,
    /// Its directory in /proc. Once the process has ended nothing is found in it, whoever has its number then.
    directory: OwnedFd,
}

/// `/proc/PID/status` or that of a thread.
pub(super) struct Status(String);

impl Process {
    /// The process that has this number now.
    pub(super) fn open(name: &'static str, pid: i32) -> io::Result<Self> {
        let mut options = File::options();
        options
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC);
        let directory = options.open(format!("/proc/{pid}"))?.into();
        Ok(Self { name, pid, directory })
    }

    /// A path in its directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        let directory = self.directory.as_raw_fd().to_string();
        Path::new("/proc/self/fd").join(directory).join(name)
    }

    pub(super) fn bytes(&self, name: &str) -> io::Result<Vec<u8>> {
        bounded(&self.path(name))
    }

    pub(super) fn read(&self, name: &str) -> io::Result<String> {
        // Names of mount points may be any bytes.
        Ok(String::from_utf8_lossy(&self.bytes(name)?).into_owned())
    }

    /// Where one of its links leads, as text.
    pub(super) fn link(&self, name: &str) -> io::Result<String> {
        fs::read_link(self.path(name)).map(|target| target.to_string_lossy().into_owned())
    }

    /// What one of its links leads to.
    pub(super) fn look(&self, name: &str) -> io::Result<look::Found> {
        look::at(&self.path(name))
    }

    /// The name of the file it executes: anybody's choice, to tell processes that are not ours from those that may be.
    pub(super) fn program(&self) -> io::Result<String> {
        let link = self.link("exe")?;
        let name = link.rsplit('/').next().unwrap_or_default();
        Ok(name.trim_end_matches(" (deleted)").to_owned())
    }

    pub(super) fn command_line(&self) -> io::Result<Vec<Vec<u8>>> {
        let bytes = self.bytes("cmdline")?;
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        Ok(bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
    }

    pub(super) fn status(&self) -> io::Result<Status> {
        self.read("status").map(Status)
    }

    /// Number and status of each thread.
    pub(super) fn threads(&self) -> io::Result<Vec<(i32, Status)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path("task"))? {
            let entry = entry?;
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            match bounded(&entry.path().join("status")) {
                Ok(bytes) => found.push((number, Status(String::from_utf8_lossy(&bytes).into_owned()))),
                // It ended meanwhile.
                Err(error) if gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        match found.is_empty() {
            true => Err(io::Error::other("it has ended")),
            false => Ok(found),
        }
    }

    /// What stays the same as long as it executes one program with one set of rights: not after execve(2).
    pub(super) fn traits(&self) -> io::Result<String> {
        let stat = self.read("stat")?;
        let (_, fields) = stat
            .rsplit_once(')')
            .ok_or_else(|| io::Error::other("stat is not understood"))?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let status = self.status()?;
        let mut out = format!("{:?}", self.look("exe")?.identity());
        // The start of the process, and where its stack and its code begin: fields 22, 28 and 26 of proc_pid_stat(5), the
        // state is field 3.
        for number in [22_usize, 28, 26] {
            out += &format!(" {}", fields.get(number - 3).unwrap_or(&""));
        }
        for name in [
            "PPid",
            "Uid",
            "Gid",
            "Groups",
            "NSpid",
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
            "Seccomp_filters",
        ] {
            out += &format!(", {name} {}", status.words(name).collect::<Vec<_>>().join(" "));
        }
        for entry in fs::read_dir(self.path("ns"))? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            out += &format!(", {name} {}", self.link(&format!("ns/{name}"))?);
        }
        Ok(out)
    }
}

/// Reads a file of /proc to its end, if that comes soon.
fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MOST {
        true => Err(io::Error::other(format!("it is longer than {} MiB", MOST >> 20))),
        false => Ok(bytes),
    }
}

impl Status {
    /// A field's words.
    pub(super) fn words(&self, name: &str) -> impl Iterator<Item = &str> {
        let line = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace()
    }

    /// A number; what is not there is the greatest one, which never looks confined.
    pub(super) fn number(&self, name: &str) -> u32 {
        let word = self.words(name).next();
        word.and_then(|word| word.parse().ok()).unwrap_or(u32::MAX)
    }

    /// A set of capabilities; what is not there is the full one.
    pub(super) fn mask(&self, name: &str) -> u64 {
        let word = self.words(name).next();
        word.and_then(|word| u64::from_str_radix(word, 16).ok())
            .unwrap_or(u64::MAX)
    }

    /// Real, effective, saved and file system id.
    pub(super) fn ids(&self, name: &str) -> Vec<u32> {
        self.words(name).filter_map(|word| word.parse().ok()).collect()
    }
}

/// Whether something of /proc is not there because it ended meanwhile.
pub(super) fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// The children of a process.
pub(super) fn children(name: &'static str, parent: i32) -> io::Result<Vec<Process>> {
    let parent = parent.to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let number = entry?.file_name();
        let Some(pid) = number.to_str().and_then(|number| number.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(process) = Process::open(name, pid) else {
            continue;
        };
        let parent_of = |status: &Status| status.words("PPid").next() == Some(&parent);
        if process.status().is_ok_and(|status| parent_of(&status)) {
            found.push(process);
        }
    }
    Ok(found)
}
