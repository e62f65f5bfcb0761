//! Takes a lock on a file, of the kind that a script can't: for the suite of locks.
//!
//! `lock-tool lock KIND MODE PATIENCE FILE START LENGTH COMMAND...` holds a lock while a command
//! runs and ends with the command's status, or with 9 when somebody else holds the lock. KIND is
//! `posix`, `ofd` (fcntl(2)) or `flock` (flock(2), START and LENGTH do not matter), MODE `read` or
//! `write`, PATIENCE `try` or `wait`. `lock-tool query FILE START LENGTH` prints whether a POSIX
//! write lock could be taken: `free`, or what is in the way.

use std::fs::File;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::libc;

/// The status that says that somebody else holds the lock.
const HELD: u8 = 9;

fn main() -> ExitCode {
    match run() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("lock-tool: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<u8> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["lock", kind, mode, patience, path, start, length, command @ ..] => {
            let write = one_of(mode, "read", "write")?;
            let wait = one_of(patience, "try", "wait")?;
            let file = open(path)?;
            // Its lock ends with it, so it lives as long as the command runs.
            let lock = match *kind {
                "flock" => by_flock(file, write, wait),
                "posix" | "ofd" => by_fcntl(file, *kind == "ofd", &range(write, start, length)?, wait),
                _ => bail!("{kind} is not a kind of lock"),
            };
            match lock {
                Ok(lock) => {
                    let status = run_command(command)?;
                    drop(lock);
                    Ok(status)
                }
                // The first two are one (fcntl(2)).
                Err(Errno::EAGAIN | Errno::EACCES) => Ok(HELD),
                Err(errno) => Err(errno).context("cannot lock"),
            }
        }
        ["query", path, start, length] => {
            let mut lock = range(true, start, length)?;
            fcntl(&open(path)?, FcntlArg::F_GETLK(&mut lock)).context("cannot query")?;
            match i32::from(lock.l_type) {
                libc::F_UNLCK => println!("free"),
                libc::F_RDLCK => println!("read {} {}", lock.l_start, lock.l_len),
                _ => println!("write {} {}", lock.l_start, lock.l_len),
            }
            Ok(0)
        }
        _ => bail!(
            "usage: lock-tool lock KIND MODE PATIENCE FILE START LENGTH COMMAND... | query FILE START LENGTH"
        ),
    }
}

/// False for the first word, true for the second.
fn one_of(word: &str, no: &str, yes: &str) -> Result<bool> {
    match word {
        _ if word == yes => Ok(true),
        _ if word == no => Ok(false),
        _ => bail!("{word} is neither {no} nor {yes}"),
    }
}

fn open(path: &str) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot open {path}"))
}

/// What keeps a lock; dropped, it gives the lock back.
enum Held {
    File(#[expect(dead_code, reason = "only its lifetime matters")] File),
    Flock(#[expect(dead_code, reason = "only its lifetime matters")] Flock<File>),
}

fn by_flock(file: File, write: bool, wait: bool) -> nix::Result<Held> {
    let argument = match (write, wait) {
        (false, false) => FlockArg::LockSharedNonblock,
        (false, true) => FlockArg::LockShared,
        (true, false) => FlockArg::LockExclusiveNonblock,
        (true, true) => FlockArg::LockExclusive,
    };
    Flock::lock(file, argument)
        .map(Held::Flock)
        .map_err(|(_, errno)| errno)
}

fn by_fcntl(file: File, ofd: bool, lock: &libc::flock, wait: bool) -> nix::Result<Held> {
    let argument = match (ofd, wait) {
        (false, false) => FcntlArg::F_SETLK(lock),
        (false, true) => FcntlArg::F_SETLKW(lock),
        (true, false) => FcntlArg::F_OFD_SETLK(lock),
        (true, true) => FcntlArg::F_OFD_SETLKW(lock),
    };
    fcntl(&file, argument)?;
    Ok(Held::File(file))
}

fn range(write: bool, start: &str, length: &str) -> Result<libc::flock> {
    let kind = if write { libc::F_WRLCK } else { libc::F_RDLCK };
    Ok(libc::flock {
        l_type: i16::try_from(kind)?,
        l_whence: i16::try_from(libc::SEEK_SET)?,
        l_start: start.parse().context("START is not a number")?,
        l_len: length.parse().context("LENGTH is not a number")?,
        l_pid: 0,
    })
}

fn run_command(command: &[&str]) -> Result<u8> {
    let [program, arguments @ ..] = command else {
        return Ok(0);
    };
    let status = Command::new(program)
        .args(arguments)
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    let status = status.code().context("the command was killed")?;
    Ok(u8::try_from(status)?)
}
