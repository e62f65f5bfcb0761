//! A process as /proc shows it (proc(5)).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One of the pair.
pub(super) struct Process {
    pub(super) name: &'static str,
    pub(super) pid: i32,
}

/// `/proc/PID/status` or that of a thread.
pub(super) struct Status(String);

impl Process {
    /// A path in its directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(name)
    }

    pub(super) fn read(&self, name: &str) -> io::Result<String> {
        // Names of mount points may be any bytes.
        fs::read(self.path(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Where one of its links leads, as text.
    pub(super) fn link(&self, name: &str) -> io::Result<String> {
        fs::read_link(self.path(name)).map(|target| target.to_string_lossy().into_owned())
    }

    /// The name of the file it executes.
    pub(super) fn program(&self) -> io::Result<String> {
        let link = self.link("exe")?;
        let name = link.rsplit('/').next().unwrap_or_default();
        Ok(name.trim_end_matches(" (deleted)").to_owned())
    }

    pub(super) fn command_line(&self) -> io::Result<Vec<Vec<u8>>> {
        let bytes = fs::read(self.path("cmdline"))?;
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        Ok(bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
    }

    pub(super) fn status(&self) -> io::Result<Status> {
        self.read("status").map(Status)
    }

    /// The status of each thread.
    pub(super) fn threads(&self) -> io::Result<Vec<Status>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path("task"))? {
            match fs::read_to_string(entry?.path().join("status")) {
                Ok(text) => found.push(Status(text)),
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
pub(super) fn children(parent: i32) -> io::Result<Vec<i32>> {
    let parent = parent.to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let process = Process { name: "", pid };
        let parent_of = |status: &Status| status.words("PPid").next() == Some(&parent);
        if process.status().is_ok_and(|status| parent_of(&status)) {
            found.push(pid);
        }
    }
    Ok(found)
}
