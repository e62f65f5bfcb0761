//! Why a process could not start: one line for a person.

use std::fmt;

/// What kind of failure ended the start; the exit code tells launchers (sysexits.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    /// The command line is wrong: 64.
    Usage,
    /// Something named on the command line is not there: 66.
    NoInput,
    /// Something the program needs is missing or busy, such as a feature of the kernel: 69.
    Unavailable,
    /// The program itself is at fault: 70.
    Software,
    /// The operating system refused what it normally grants: 71.
    OsError,
    /// The VMM broke its protocol: 76.
    Protocol,
    /// The user may not do this: 77.
    Permission,
    /// A setting of the system is in the way: 78.
    Config,
}

impl ExitKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Usage,
        Self::NoInput,
        Self::Unavailable,
        Self::Software,
        Self::OsError,
        Self::Protocol,
        Self::Permission,
        Self::Config,
    ];

    /// The process's exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::NoInput => 66,
            Self::Unavailable => 69,
            Self::Software => 70,
            Self::OsError => 71,
            Self::Protocol => 76,
            Self::Permission => 77,
            Self::Config => 78,
        }
    }
}

/// One line that says what failed and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartError {
    /// Kind, for the exit code.
    pub kind: ExitKind,
    /// The line.
    pub message: String,
}

impl StartError {
    /// An error with its line.
    pub fn new(kind: ExitKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}

/// An error of a system call, with the limit that it may come from.
#[derive(Debug)]
pub struct Advised<'a>(pub &'a std::io::Error);

impl fmt::Display for Advised<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = match self.0.raw_os_error() {
            Some(libc::EAGAIN) => {
                "raise the limit of processes (ulimit -u, LimitNPROC=, TasksMax=) or of memory (ulimit -v)"
            }
            Some(libc::ENOMEM) => "raise the limit of memory (ulimit -v and -d, LimitAS=, LimitDATA=)",
            Some(libc::EFBIG) => "raise the limit of file sizes (ulimit -f, LimitFSIZE=)",
            Some(libc::EMFILE) => "raise the limit of open files (ulimit -n, LimitNOFILE=)",
            Some(libc::ENFILE) => "the system has too many files open (sysctl fs.file-max)",
            Some(libc::ENOSYS) => "this kernel or a filter of the launcher's lacks the system call",
            _ => return write!(f, "{}", self.0),
        };
        write!(f, "{}; {limit}", self.0)
    }
}
