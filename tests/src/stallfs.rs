//! A file system on the host that stops answering on demand, like one on a broken network or a
//! dying disk. It is a FUSE file system that a thread of the test serves. In its directories, every
//! name that begins with `file` or `dir` exists (one inode each), and so does every name that was
//! made. It remembers nothing else, and every change succeeds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};
use zerocopy::{FromBytes, IntoBytes};

use crate::fuse::abi::{
    ACCESS, Attr, AttrOut, BATCH_FORGET, CREATE, EntryOut, FALLOCATE, FLUSH, FORGET, FSYNC, FSYNCDIR,
    GETATTR, GETXATTR, GetxattrIn, GetxattrOut, IN_HEADER, INIT, INTERRUPT, InHeader, InitOut, Kstatfs, LINK,
    LISTXATTR, LOOKUP, MKDIR, MKNOD, OPEN, OPENDIR, OUT_HEADER, OpenOut, OutHeader, READ, READDIR, RELEASE,
    RELEASEDIR, REMOVEXATTR, RENAME, RENAME2, RMDIR, ROOT, ReadIn, SETATTR, SETLK, SETXATTR, STATFS, UNLINK,
    WRITE, WriteIn, WriteOut,
};
use crate::vmm::fds;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nodes.
const FILE: u64 = 2;
const DIRECTORY: u64 = 3;
/// Every file's content.
pub const TEXT: &[u8] = b"what a stalled file system has";
/// The one attribute's value.
pub const VALUE: &[u8] = b"value";
/// FUSE_POSIX_LOCKS of INIT: locks are the server's.
const POSIX_LOCKS: u32 = 1 << 1;
/// FOPEN_DIRECT_IO: the kernel keeps no pages.
const DIRECT_IO: u32 = 1;

/// Nodes by the names that were given to them.
type Names = BTreeMap<Vec<u8>, u64>;

/// The mount and its server. Dropping it answers every hung request with ENOTCONN and unmounts.
#[derive(Debug)]
pub struct StallFs {
    at: PathBuf,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Signalled when something is released, and at the end.
    bell: EventFd,
}

#[derive(Debug, Default)]
struct State {
    /// Opcodes that are not answered.
    stalled: BTreeSet<u32>,
    /// Requests that hang until they are released.
    held: Vec<Vec<u8>>,
    /// Requests that may be answered now.
    released: Vec<Vec<u8>>,
    /// Requests so far, by opcode.
    seen: BTreeMap<u32, u64>,
    /// The server must end.
    over: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StallFs {
    /// Mounts one on a directory.
    pub fn mount(at: &Path) -> Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/fuse")
            .context("open /dev/fuse")?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        mount(
            Some("stalls"),
            at,
            Some("fuse.stalls"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .with_context(|| format!("mount on {}", at.display()))?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            bell: EventFd::new(EFD_CLOEXEC).context("eventfd")?,
        });
        let theirs = shared.clone();
        let server = std::thread::Builder::new()
            .name("stalls".into())
            .spawn(move || theirs.serve(device))?;
        Ok(Self {
            at: at.to_owned(),
            shared,
            server: Some(server),
        })
    }

    /// From now on, requests of these opcodes are not answered.
    pub fn stall(&self, opcodes: &[u32]) {
        self.shared.state().stalled.extend(opcodes);
    }

    /// Waits until so many requests hang.
    ///
    /// # Panics
    /// When they do not come.
    pub fn wait_held(&self, count: usize) {
        let state = self.shared.state();
        let few = |state: &mut State| state.held.len() < count;
        let waited = self.shared.changed.wait_timeout_while(state, PATIENCE, few);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(
            !timeout.timed_out(),
            "{} requests hang, not {count}: {:?}",
            state.held.len(),
            state.seen
        );
    }

    /// How many requests hang.
    pub fn held(&self) -> usize {
        self.shared.state().held.len()
    }

    /// Answers all that hang, and all that come.
    pub fn release(&self) {
        let mut state = self.shared.state();
        state.stalled.clear();
        let held = std::mem::take(&mut state.held);
        state.released.extend(held);
        drop(state);
        self.shared.bell.write(1).expect("an eventfd counts to one");
    }
}

impl Drop for StallFs {
    fn drop(&mut self) {
        self.release();
        if let Err(error) = umount2(&self.at, MntFlags::MNT_DETACH) {
            eprintln!("umount {}: {error}", self.at.display());
        }
        self.shared.state().over = true;
        let _ = self.shared.bell.write(1);
        let _ = self.server.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn serve(&self, mut device: File) {
        let mut room = vec![0; (1 << 20) + 4096];
        let mut made = Names::new();
        loop {
            let [request, told] = fds::wait([device.as_fd(), fds::borrow(&self.bell)], u16::MAX);
            if told {
                let _ = self.bell.read();
                let released = std::mem::take(&mut self.state().released);
                for request in released {
                    answer(&mut device, &request, &mut made);
                }
                if self.state().over {
                    // Closing the device ends what is not answered.
                    return;
                }
            }
            if !request {
                continue;
            }
            let length = match device.read(&mut room) {
                Ok(length) => length,
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
                // Interrupted before it was taken.
                Err(_) => continue,
            };
            let request = &room[..length];
            let opcode = header(request).opcode;
            let mut state = self.state();
            *state.seen.entry(opcode).or_default() += 1;
            if state.stalled.contains(&opcode) {
                state.held.push(request.to_vec());
                drop(state);
                self.changed.notify_all();
            } else {
                drop(state);
                answer(&mut device, request, &mut made);
            }
        }
    }
}

fn header(request: &[u8]) -> InHeader {
    InHeader::read_from_prefix(request).map_or_else(|_| InHeader::default(), |(header, _)| header)
}

fn attr(node: u64) -> Attr {
    let kind = match node {
        ROOT | DIRECTORY => libc::S_IFDIR | 0o755,
        _ => libc::S_IFREG | 0o644,
    };
    Attr {
        ino: node,
        size: TEXT.len() as u64,
        mode: kind,
        nlink: 9,
        blksize: 4096,
        ..Attr::default()
    }
}

fn entry(node: u64) -> Vec<u8> {
    let entry = EntryOut {
        nodeid: node,
        attr: attr(node),
        ..EntryOut::default()
    };
    entry.as_bytes().to_vec()
}

fn body<T: FromBytes>(request: &[u8]) -> T {
    let (body, _) = T::read_from_prefix(&request[IN_HEADER..]).unwrap_or_else(|_| panic!("a short request"));
    body
}

/// The last of the names that a request ends with.
fn last_name(request: &[u8]) -> Vec<u8> {
    let names = request.strip_suffix(b"\0").unwrap_or(request);
    names
        .rsplit(|byte| *byte == 0)
        .next()
        .unwrap_or_default()
        .to_vec()
}

/// What a request is answered: an errno, or bytes. None: nothing.
fn reply(header: &InHeader, request: &[u8], made: &mut Names) -> Option<Result<Vec<u8>, i32>> {
    let open = OpenOut {
        fh: 1,
        open_flags: DIRECT_IO,
        ..OpenOut::default()
    };
    let name = || {
        request[IN_HEADER..]
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default()
    };
    Some(Ok(match header.opcode {
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        INIT => InitOut {
            major: 7,
            minor: 38,
            max_readahead: 1 << 20,
            flags: POSIX_LOCKS,
            max_background: 64,
            congestion_threshold: 64,
            max_write: 1 << 20,
            time_gran: 1,
            ..InitOut::default()
        }
        .as_bytes()
        .to_vec(),
        LOOKUP => match name() {
            name if name.starts_with(b"file") => entry(FILE),
            name if name.starts_with(b"dir") => entry(DIRECTORY),
            name if made.contains_key(name) => entry(made[name]),
            _ => return Some(Err(libc::ENOENT)),
        },
        GETATTR | SETATTR => AttrOut {
            attr: attr(header.nodeid),
            ..AttrOut::default()
        }
        .as_bytes()
        .to_vec(),
        OPEN | OPENDIR => open.as_bytes().to_vec(),
        CREATE => [entry(FILE), open.as_bytes().to_vec()].concat(),
        MKDIR => {
            made.insert(last_name(request), DIRECTORY);
            entry(DIRECTORY)
        }
        MKNOD | LINK => {
            made.insert(last_name(request), FILE);
            entry(FILE)
        }
        READ => {
            let asked: ReadIn = body(request);
            let from = usize::try_from(asked.offset)
                .unwrap_or(usize::MAX)
                .min(TEXT.len());
            TEXT[from..].iter().copied().take(asked.size as usize).collect()
        }
        WRITE => WriteOut {
            size: body::<WriteIn>(request).size,
            ..WriteOut::default()
        }
        .as_bytes()
        .to_vec(),
        READDIR if body::<ReadIn>(request).offset == 0 => {
            // fuse_dirent: inode number, offset of the next, length and type, then the name, padded
            // to 8 bytes.
            let mut bytes = Vec::new();
            bytes.extend(FILE.to_ne_bytes());
            bytes.extend(1u64.to_ne_bytes());
            bytes.extend(4u32.to_ne_bytes());
            bytes.extend(u32::from(libc::DT_REG).to_ne_bytes());
            bytes.extend(b"file\0\0\0\0");
            bytes
        }
        GETXATTR => match body::<GetxattrIn>(request).size {
            0 => GetxattrOut {
                size: VALUE.len() as u32,
                ..GetxattrOut::default()
            }
            .as_bytes()
            .to_vec(),
            _ => VALUE.to_vec(),
        },
        STATFS => Kstatfs {
            bsize: 4096,
            namelen: 255,
            ..Kstatfs::default()
        }
        .as_bytes()
        .to_vec(),
        READDIR | UNLINK | RMDIR | RENAME | RENAME2 | FLUSH | RELEASE | RELEASEDIR | FSYNC | FSYNCDIR
        | ACCESS | SETXATTR | REMOVEXATTR | LISTXATTR | FALLOCATE | SETLK => Vec::new(),
        _ => return Some(Err(libc::ENOSYS)),
    }))
}

fn answer(device: &mut File, request: &[u8], made: &mut Names) {
    let header = header(request);
    let Some(reply) = reply(&header, request, made) else {
        return;
    };
    let (error, body) = match reply {
        Ok(body) => (0, body),
        Err(errno) => (-errno, Vec::new()),
    };
    let out = OutHeader {
        len: (OUT_HEADER + body.len()) as u32,
        error,
        unique: header.unique,
    };
    let bytes = [out.as_bytes(), &body].concat();
    // ENOENT: whoever asked is gone.
    let _ = device.write(&bytes);
}
