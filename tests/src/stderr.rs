//! What a launcher may give a daemon as its stderr.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{mkfifo, pipe};

use crate::tempdir::TempDir;

/// A kind of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A pipe.
    Pipe,
    /// A FIFO with a name, open for reading too.
    Fifo,
    /// A connected local socket, as systemd makes one.
    Socket,
    /// A terminal, open for reading too, as a shell's is.
    Terminal,
}

/// All that somebody reads.
pub const READ: [Kind; 4] = [Kind::Pipe, Kind::Fifo, Kind::Socket, Kind::Terminal];

/// Both ends of one.
#[derive(Debug)]
pub struct Stderr {
    /// The launcher's.
    pub reads: File,
    /// The daemon's.
    pub writes: OwnedFd,
}

impl Stderr {
    /// A new one.
    pub fn new(kind: Kind) -> Result<Self> {
        let (reads, writes): (OwnedFd, OwnedFd) = match kind {
            Kind::Pipe => pipe()?,
            Kind::Fifo => {
                let home = TempDir::new()?;
                let path = home.join("log");
                mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
                let both = File::options().read(true).write(true).open(&path)?;
                (File::open(&path)?.into(), both.into())
            }
            Kind::Socket => {
                let (reads, writes) = UnixStream::pair()?;
                (reads.into(), writes.into())
            }
            Kind::Terminal => {
                let pty = openpty(None, None)?;
                let mut settings = tcgetattr(&pty.slave)?;
                cfmakeraw(&mut settings);
                tcsetattr(&pty.slave, SetArg::TCSANOW, &settings)?;
                (pty.master, pty.slave)
            }
        };
        Ok(Self {
            reads: reads.into(),
            writes,
        })
    }

    /// The daemon's end, once more.
    pub fn writes(&self) -> OwnedFd {
        self.writes.try_clone().expect("a descriptor")
    }

    /// Writes to it until it takes no more.
    pub fn fill(&self) -> Result<()> {
        let flags = OFlag::from_bits_retain(fcntl(&self.writes, FcntlArg::F_GETFL)?);
        fcntl(&self.writes, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let mut file = File::from(self.writes());
        for length in [4096, 1] {
            loop {
                match file.write(&b"filled\n".repeat(600)[..length]) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("fill it"),
                }
            }
        }
        fcntl(&self.writes, FcntlArg::F_SETFL(flags))?;
        Ok(())
    }

    /// Reads until `text` came; all that was read by then.
    pub fn read_until(&mut self, text: &str) -> Result<String> {
        let mut read = Vec::new();
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&read).contains(text) {
            let mut ready = [nix::poll::PollFd::new(
                self.reads.as_fd(),
                nix::poll::PollFlags::POLLIN,
            )];
            let told = nix::poll::poll(&mut ready, 30_000_u16)?;
            anyhow::ensure!(told == 1, "nothing more came: {}", String::from_utf8_lossy(&read));
            let count = self.reads.read(&mut buffer)?;
            anyhow::ensure!(count > 0, "it ended: {}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&buffer[..count]);
        }
        Ok(String::from_utf8_lossy(&read).into_owned())
    }
}
