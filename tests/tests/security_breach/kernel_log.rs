//! The kernel's audit records, as root reads them without a daemon of its own: from netlink's multicast group
//! (AUDIT_NLGRP_READLOG, which auditd does not compete for) and from /dev/kmsg, where the kernel prints them when no
//! auditd runs. And the switch that turns auditing on, for as long as a test takes.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt::RcvBufForce,
};

/// Types of records: a system call that a filter forbids; what Landlock denies, and the domain that denied it.
pub(crate) const SECCOMP: u16 = 1326;
pub(crate) const LANDLOCK_ACCESS: u16 = 1423;
pub(crate) const LANDLOCK_DOMAIN: u16 = 1424;

// linux/audit.h
const AUDIT_GET: u16 = 1000;
const AUDIT_SET: u16 = 1001;
const AUDIT_ADD_RULE: u16 = 1011;
const AUDIT_STATUS_ENABLED: u32 = 1;
const AUDIT_FILTER_TASK: u32 = 1;
const AUDIT_NLGRP_READLOG: u32 = 1;
/// Bytes of `struct audit_status` before what later kernels added, and of `struct audit_rule_data`.
const STATUS: usize = 40;
const RULE: usize = 4 * (3 + 64 + 64 * 3 + 1);

/// Bytes of records that wait to be read.
const BUFFER: usize = 16 << 20;
/// How long a record may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn netlink(groups: u32) -> io::Result<OwnedFd> {
    let (flags, protocol) = (SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkAudit);
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

fn readable(descriptor: &impl AsFd, over: Instant) -> io::Result<()> {
    let left = over.saturating_duration_since(Instant::now()).as_millis();
    let timeout = PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX));
    match poll(&mut [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)], timeout)? {
        0 => Err(ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// A netlink message's type and what it carries (netlink(7)).
fn message(socket: &OwnedFd, over: Instant) -> io::Result<(u16, Vec<u8>)> {
    readable(socket, over)?;
    let mut buffer = vec![0; 16 << 10];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    buffer.truncate(length);
    match buffer.get(4..6) {
        Some(kind) if length >= 16 => Ok((u16::from_ne_bytes([kind[0], kind[1]]), buffer.split_off(16))),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// Asks the kernel's audit; its answer, if one of that type comes before its acknowledgement.
fn ask(kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let socket = netlink(0)?;
    let mut bytes = Vec::new();
    bytes.extend((16 + body.len() as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    send(socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
    let over = Instant::now() + PATIENCE;
    loop {
        let (answered, body) = message(&socket, over)?;
        let error = match (i32::from(answered), body.get(..4)) {
            (libc::NLMSG_ERROR, Some(error)) => i32::from_ne_bytes([error[0], error[1], error[2], error[3]]),
            _ if answered == kind => return Ok(body),
            _ => continue,
        };
        match error {
            0 if kind == AUDIT_GET => {}
            0 => return Ok(Vec::new()),
            errno => return Err(io::Error::from_raw_os_error(-errno)),
        }
    }
}

fn word(bytes: &[u8], index: usize) -> u32 {
    let word = bytes.get(index * 4..index * 4 + 4).expect("a word");
    u32::from_ne_bytes(word.try_into().expect("four bytes"))
}

/// Auditing is on until this is dropped; then it is as before.
pub(crate) struct Auditing {
    /// As it was: off, on, or on for ever.
    before: u32,
    /// Whether an auditd takes the records, so that the kernel prints none.
    pub(crate) daemon: bool,
    /// Not two suites at once.
    _lock: Flock<File>,
}

impl Auditing {
    /// Turns it on. Why not, where the system does not let this process.
    pub(crate) fn turned_on() -> Result<Self, String> {
        let why = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let path = std::env::temp_dir().join("airlockfs-tests-audit.lock");
        let lock = File::create(&path).map_err(why("the lock of the suites"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error.to_string())?;
        let status = ask(AUDIT_GET, &[]).map_err(why("AUDIT_GET"))?;
        let before = word(&status, 1);
        if before == 0 {
            // Once auditing has been on, the kernel prepares every new process for rules about system calls, and each of
            // its calls is slower until the next boot, on or off. This rule (auditctl -a never,task) spares them that; it
            // stays, because the slowness would.
            let mut rule = vec![0; RULE];
            rule[..4].copy_from_slice(&AUDIT_FILTER_TASK.to_ne_bytes());
            rule[12..12 + 256].fill(0xff);
            match ask(AUDIT_ADD_RULE, &rule) {
                Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                    return Err(why("AUDIT_ADD_RULE")(error));
                }
                _ => {}
            }
            Self::set(1).map_err(why("AUDIT_SET"))?;
        }
        Ok(Self {
            before,
            daemon: word(&status, 3) != 0,
            _lock: lock,
        })
    }

    fn set(enabled: u32) -> io::Result<()> {
        let mut status = vec![0; STATUS];
        status[..4].copy_from_slice(&AUDIT_STATUS_ENABLED.to_ne_bytes());
        status[4..8].copy_from_slice(&enabled.to_ne_bytes());
        ask(AUDIT_SET, &status).map(drop)
    }
}

impl Drop for Auditing {
    fn drop(&mut self) {
        if self.before == 0 {
            Self::set(0).expect("auditing is off again");
        }
    }
}

/// How many records the kernel gave up since its start, because nothing took them fast enough.
fn given_up() -> Result<u32, String> {
    let status = ask(AUDIT_GET, &[]).map_err(|error| format!("AUDIT_GET: {error}"))?;
    Ok(word(&status, 6))
}

/// The records from now on.
pub(crate) struct Records {
    socket: OwnedFd,
    /// [`given_up`] when it began.
    given_up: u32,
    /// Whether the socket's buffer overflowed.
    overflowed: Cell<bool>,
}

impl Records {
    /// Listens. Why not, where the system does not let this process.
    pub(crate) fn from_now() -> Result<Self, String> {
        // PROC_PID_INIT_INO
        if std::fs::read_link("/proc/self/ns/pid").ok() != Some("pid:[4026531836]".into()) {
            return Err("records have process ids of the host's namespace, which is not this one".to_owned());
        }
        let group = netlink(1 << (AUDIT_NLGRP_READLOG - 1));
        let socket = group.map_err(|error| format!("the group of audit records: {error}"))?;
        // The other tests beside this one have themselves denied thousands of things.
        setsockopt(&socket, RcvBufForce, &BUFFER).map_err(|error| format!("SO_RCVBUFFORCE: {error}"))?;
        Ok(Self {
            socket,
            given_up: given_up()?,
            overflowed: Cell::new(false),
        })
    }

    /// Whether records were lost since: the one that is missing may be among them.
    pub(crate) fn lost(&self) -> bool {
        self.overflowed.get() || given_up().is_ok_and(|now| now != self.given_up)
    }

    /// The next record of this type that has all these words in it.
    pub(crate) fn next(&self, kind: u16, words: &[&str]) -> Option<String> {
        self.find(|found, text| (found == kind && has(text, words)).then(|| text.to_owned()))
    }

    /// What `wanted` makes of the first record, by type and text, of which it makes something.
    pub(crate) fn find<T>(&self, mut wanted: impl FnMut(u16, &str) -> Option<T>) -> Option<T> {
        let over = Instant::now() + PATIENCE;
        loop {
            let (kind, body) = match message(&self.socket, over) {
                Ok(message) => message,
                // Others' records came too fast; ours may follow.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.overflowed.set(true);
                    continue;
                }
                Err(_) => return None,
            };
            let text = String::from_utf8_lossy(&body);
            if let Some(found) = wanted(kind, text.trim_end_matches('\0')) {
                return Some(found);
            }
        }
    }
}

/// Whether a record has all these fields.
pub(crate) fn has(text: &str, words: &[&str]) -> bool {
    let fields = || text.split_whitespace();
    words.iter().all(|word| fields().any(|field| field == *word))
}

/// What the kernel prints from now on (/dev/kmsg).
pub(crate) struct Printed(File);

impl Printed {
    /// Why not, where the system does not let this process.
    pub(crate) fn from_now() -> Result<Self, String> {
        Self::at_end().map_err(|error| format!("/dev/kmsg: {error}"))
    }

    fn at_end() -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self(file))
    }

    /// Waits for the next audit record of this type with these fields, for this long.
    pub(crate) fn next(&mut self, kind: u16, words: &[&str], patience: Duration) -> Option<String> {
        let over = Instant::now() + patience;
        let kind = format!("audit: type={kind} ");
        let mut buffer = vec![0; 8192];
        loop {
            match self.0.read(&mut buffer) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    if text.contains(&kind) && has(&text, words) {
                        return Some(text.lines().next().unwrap_or_default().to_owned());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => readable(&self.0, over).ok()?,
                // It was overwritten before it was read.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) => panic!("/dev/kmsg: {error}"),
            }
        }
    }
}

/// How many messages of one kind the kernel prints in how many seconds (`kernel.printk_ratelimit_burst`,
/// `kernel.printk_ratelimit`): that bounds audit records that no auditd takes.
pub(crate) fn print_limit() -> (u64, u64) {
    let value = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).expect("a limit");
        text.trim().parse().expect("a number")
    };
    (value("printk_ratelimit_burst"), value("printk_ratelimit"))
}
