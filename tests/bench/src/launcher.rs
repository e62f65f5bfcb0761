//! The two ways in which launchers start a daemon and a VMM comes to it.

use airlockfs_tests::daemon::Launch;

/// A launcher, by how it knows when the VMM may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Launcher {
    /// Has the daemon make the socket (`--socket-path`) and waits for the line that says it listens: Kata's runtime-rs.
    WaitsForLine,
    /// Makes the listening socket, hands it down (`--fd`) and lets the VMM connect at once: Kata's Go shim, libvirt, Incus.
    HandsDownSocket,
}

impl Launcher {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::WaitsForLine, Self::HandsDownSocket];

    /// How reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WaitsForLine => "socket-path, waits for the line",
            Self::HandsDownSocket => "fd, connects at once",
        }
    }

    /// Has a daemon started in this way.
    pub(super) fn prepare(self, launch: Launch) -> Launch {
        match self {
            Self::WaitsForLine => launch,
            Self::HandsDownSocket => launch.by_fd(),
        }
    }
}
