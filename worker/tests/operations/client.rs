//! The supervisor's end, for tests: starts a worker on a fresh directory and calls it, one request at a time.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use airlockfs_ipc::{
    Bytes, Errno, Handle, Name, NodeId,
    channel::{Channel, pair},
    message::{
        Attr, AttrChange, Caller, ConfinementReport, Creation, DirEntry, Entry, Farewell, FileOperation,
        Reply, Request, Sandbox, SeccompMode, Share, Start, Started, WorkerConfig,
    },
    ring::{MessageBuffer, SlotId, SupervisorLane, SupervisorRing},
};
use nix::{
    mount::{MntFlags, umount2},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::spawn::{Process, Who, spawn};

/// Root in the guest.
pub(crate) const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    group: None,
};

/// An ordinary user in the guest.
pub(crate) const USER: Caller = Caller {
    uid: 1000,
    gid: 1001,
    group: None,
};

/// A directory that goes with the value.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("airlockfs-worker-{}-{count}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }
}

impl Scratch {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file that is not in the directory.
    fn log(&self) -> File {
        let path = self.0.with_extension("log");
        let mut options = File::options();
        let log = options
            .read(true)
            .append(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        fs::remove_file(path).unwrap();
        log
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Where a test made it a mount, with others beneath.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A worker, and the directory it serves.
pub(crate) struct Worker {
    pub(crate) process: Process,
    log: File,
    pub(crate) control: Option<Channel>,
    pub(crate) lane: SupervisorLane,
    pub(crate) report: ConfinementReport,
    /// The ring's memory, for those who break its rules.
    pub(crate) memory: OwnedFd,
    scratch: Scratch,
    /// What the last reply left in the bulk buffer.
    pub(crate) data: Vec<u8>,
    /// The last symbolic link's target.
    pub(crate) target: Vec<u8>,
}

/// The configuration of tests: everything on that a guest may use.
pub(crate) fn config(shares: Vec<Share>) -> WorkerConfig {
    WorkerConfig {
        shares,
        readonly: false,
        xattr: true,
        xattr_map: None,
        posix_acl: false,
        no_setuid: false,
        device_nodes: false,
        project_ids: false,
        immutable_flags: false,
        donate: true,
        writeback: false,
        direct_io: true,
        preserve_noatime: false,
        announce_submounts: true,
        zero_open: false,
        posix_lock: true,
        flock: true,
        lock_wait_ms: 0,
        file_handles: false,
        uid_map: vec![],
        gid_map: vec![],
        view: airlockfs_ipc::message::View::default(),
        sandbox: Sandbox::None,
        seccomp: SeccompMode::Kill,
        allow_missing: vec![],
        spare_threads: 2,
        stall_limit: 30,
        max_descriptors: 800,
        max_memory: 1 << 30,
        poll_us: 0,
        informs: true,
    }
}

pub(crate) fn share(path: &Path, name: Option<&str>, readonly: bool) -> Share {
    let found = fs::metadata(path).unwrap();
    Share {
        path: path.as_os_str().as_encoded_bytes().to_vec(),
        identity: (found.dev(), found.ino()),
        name: name.map(|name| name.as_bytes().to_vec()),
        readonly,
    }
}

impl Worker {
    /// On a fresh directory, with `options` changed.
    pub(crate) fn start(options: impl FnOnce(&mut WorkerConfig)) -> Self {
        Self::on(Scratch::new(), options)
    }

    /// On a directory.
    pub(crate) fn on(scratch: Scratch, options: impl FnOnce(&mut WorkerConfig)) -> Self {
        let mut config = config(vec![share(&scratch.0, None, false)]);
        options(&mut config);
        Self::with(scratch, config).unwrap_or_else(|failed| panic!("{failed}"))
    }

    /// On shares of one's own.
    pub(crate) fn with(scratch: Scratch, config: WorkerConfig) -> Result<Self, String> {
        Self::spawn(scratch, config, Who::default())
    }

    /// As somebody else.
    pub(crate) fn spawn(scratch: Scratch, config: WorkerConfig, who: Who) -> Result<Self, String> {
        let ring = SupervisorRing::create(1, Duration::ZERO).unwrap();
        let (control, theirs) = pair().unwrap();
        let log = scratch.log();
        let theirs_fd: OwnedFd = theirs.as_fd().try_clone_to_owned().unwrap();
        drop(theirs);
        let process = spawn(theirs_fd, &log, config.sandbox, who);
        let start = Start {
            lanes: 1,
            network: false,
            config,
        };
        let memory = ring.worker.descriptors()[0].try_clone_to_owned().unwrap();
        control.send(&start, &ring.worker.descriptors()).unwrap();
        let mut worker = Self {
            process,
            log,
            control: Some(control),
            lane: ring.lanes.into_iter().next().unwrap(),
            report: ConfinementReport::default(),
            memory,
            scratch,
            data: Vec::new(),
            target: Vec::new(),
        };
        let control = worker.control.as_ref().unwrap();
        match control.receive::<Started>(0).unwrap() {
            Some((Started::Ready(report), _)) => worker.report = report,
            Some((Started::Failed { message, .. }, _)) => return Err(message),
            None => panic!("the worker ended: {}", worker.said()),
        }
        Ok(worker)
    }

    /// A path on the host, beneath the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.process.worker);
        fs::read_dir(path).unwrap().count()
    }

    /// Its root directory as the host sees it.
    pub(crate) fn root(&self) -> PathBuf {
        fs::read_link(format!("/proc/{}/root", self.process.worker)).unwrap()
    }

    /// What it logged.
    pub(crate) fn said(&self) -> String {
        let mut said = vec![0; 4096];
        let length = self.log.read_at(&mut said, 0).unwrap();
        String::from_utf8_lossy(&said[..length]).into_owned()
    }

    /// Sends a request without waiting for its answer.
    pub(crate) fn send(&mut self, request: &Request<'_>) -> SlotId {
        let slot = self.lane.submit(request, None).unwrap();
        self.lane.flush();
        slot
    }

    /// Waits for the next answer to a request that was sent.
    pub(crate) fn answer(&mut self) -> (SlotId, Result<Reply<'static>, Errno>) {
        let mut buffer = MessageBuffer::new();
        loop {
            if let Some((slot, reply)) = self.lane.next_completion(&mut buffer).unwrap() {
                let reply = match reply {
                    Reply::Error(error) => Err(error),
                    Reply::Target(target) => {
                        self.target = target.0.to_vec();
                        Ok(Reply::Done)
                    }
                    other => Ok(owned(other)),
                };
                return (slot, reply);
            }
            if self.lane.before_sleep(true) {
                if !self.rings() {
                    panic!("no answer; the worker says: {}", self.said());
                }
                let _ = nix::unistd::read(self.lane.doorbell(), &mut [0; 8]);
            }
            self.lane.after_sleep();
        }
    }

    /// Waits for the doorbell for as long as the worker lives, and a minute at most; false otherwise.
    fn rings(&self) -> bool {
        let mut sources = vec![PollFd::new(self.lane.doorbell(), PollFlags::POLLIN)];
        // At its end the worker has ended.
        sources.extend(
            self.control
                .iter()
                .map(|control| PollFd::new(control.as_fd(), PollFlags::POLLIN)),
        );
        poll(&mut sources, PollTimeout::from(60_000u16)).unwrap();
        sources[0].any() == Some(true)
    }

    /// Whether an answer comes within some milliseconds.
    pub(crate) fn has_answer(&mut self, milliseconds: u16) -> bool {
        if self.lane.before_sleep(true) {
            let mut doorbell = [PollFd::new(self.lane.doorbell(), PollFlags::POLLIN)];
            poll(&mut doorbell, PollTimeout::from(milliseconds)).unwrap();
        }
        self.lane.after_sleep();
        self.lane.has_completion()
    }

    /// Calls without data.
    pub(crate) fn call(&mut self, request: &Request<'_>) -> Result<Reply<'static>, Errno> {
        self.send(request);
        self.answer().1
    }

    /// Calls with a bulk buffer that holds `data`; what the answer leaves in it is in `self.data`.
    pub(crate) fn call_with(&mut self, request: &Request<'_>, data: &[u8]) -> Result<Reply<'static>, Errno> {
        let bulk = self.lane.take_bulk().unwrap();
        let buffer = self.lane.bulk(&bulk);
        assert_eq!(buffer.copy_from_slice(0, data), data.len());
        self.lane.submit(request, Some(&bulk)).unwrap();
        self.lane.flush();
        let reply = self.answer().1;
        let length = match reply {
            Ok(Reply::Data { size } | Reply::Entries { size }) => size,
            _ => 0,
        };
        self.data.resize(length as usize, 0);
        buffer.copy_to_slice(0, &mut self.data);
        self.lane.give_bulk(bulk);
        reply
    }

    /// Ends it as the supervisor does that ends in good order. Its exit code and its log.
    pub(crate) fn end(&mut self) -> (i32, String) {
        if let Some(control) = self.control.take() {
            control.send(&Farewell::Farewell, &[]).unwrap();
        }
        self.wait()
    }

    /// Waits for it to end. Its exit code and its log.
    pub(crate) fn wait(&mut self) -> (i32, String) {
        assert!(self.ended_within(30_000), "it does not end: {}", self.said());
        let child = Pid::from_raw(self.process.child.take().unwrap());
        match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, code) => (code, self.said()),
            other => panic!("{other:?}"),
        }
    }

    /// Whether it ended within some milliseconds: then its end of the control channel is closed.
    pub(crate) fn ended_within(&self, milliseconds: u16) -> bool {
        let Some(control) = &self.control else { return true };
        let mut control = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        poll(&mut control, PollTimeout::from(milliseconds)).unwrap() > 0
    }

    pub(crate) fn lookup(&mut self, parent: NodeId, name: &str) -> Result<Entry, Errno> {
        let request = Request::Lookup {
            parent,
            name: name_of(name),
        };
        self.call(&request).map(entry_of)
    }

    /// The node of a path beneath the root. It must be there.
    pub(crate) fn node(&mut self, path: &str) -> NodeId {
        path.split('/').fold(NodeId::ROOT, |parent, name| {
            let found = self.lookup(parent, name);
            found.unwrap_or_else(|error| panic!("{path}: {error:?}")).node
        })
    }

    pub(crate) fn forget(&mut self, node: NodeId, count: u64) {
        let record = [node.0.to_le_bytes(), count.to_le_bytes()].concat();
        assert_eq!(self.call(&Request::Forget(Bytes(&record))), Ok(Reply::Done));
    }

    pub(crate) fn getattr(&mut self, node: NodeId) -> Result<Attr, Errno> {
        self.call(&Request::GetAttr { node }).map(attr_of)
    }

    pub(crate) fn setattr(&mut self, node: NodeId, change: AttrChange) -> Result<Attr, Errno> {
        let request = Request::SetAttr {
            node,
            handle: None,
            change,
        };
        self.call(&request).map(attr_of)
    }

    pub(crate) fn create(&mut self, name: &str, flags: i32, mode: u32) -> Result<(Entry, Handle), Errno> {
        self.create_as(ROOT, NodeId::ROOT, name, flags, mode, 0)
    }

    pub(crate) fn create_as(
        &mut self,
        caller: Caller,
        parent: NodeId,
        name: &str,
        flags: i32,
        mode: u32,
        umask: u32,
    ) -> Result<(Entry, Handle), Errno> {
        let reply = self.call(&Request::Create {
            parent,
            name: name_of(name),
            flags: flags as u32,
            kill_suidgid: false,
            creation: creation(caller, mode, umask),
        })?;
        match reply {
            Reply::Created { entry, handle } => Ok((entry, handle)),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn mkdir(&mut self, parent: NodeId, name: &str) -> Result<Entry, Errno> {
        let request = Request::Mkdir {
            parent,
            name: name_of(name),
            creation: creation(ROOT, 0o755, 0),
        };
        self.call(&request).map(entry_of)
    }

    pub(crate) fn open(&mut self, node: NodeId, flags: i32) -> Result<Handle, Errno> {
        let request = Request::Open {
            node,
            flags: flags as u32,
            kill_suidgid: false,
        };
        self.call(&request).map(handle_of)
    }

    pub(crate) fn opendir(&mut self, node: NodeId) -> Result<Handle, Errno> {
        self.call(&Request::OpenDir { node, flags: 0 }).map(handle_of)
    }

    pub(crate) fn release(&mut self, handle: Handle) -> Result<(), Errno> {
        let flock_owner = None;
        self.call(&Request::Release { handle, flock_owner }).map(|_| ())
    }

    pub(crate) fn unlink(&mut self, parent: NodeId, name: &str) -> Result<(), Errno> {
        let name = name_of(name);
        self.call(&Request::Unlink { parent, name }).map(|_| ())
    }

    pub(crate) fn rmdir(&mut self, parent: NodeId, name: &str) -> Result<(), Errno> {
        let name = name_of(name);
        self.call(&Request::Rmdir { parent, name }).map(|_| ())
    }

    pub(crate) fn rename(
        &mut self,
        from: (NodeId, &str),
        to: (NodeId, &str),
        flags: u32,
    ) -> Result<(), Errno> {
        let request = Request::Rename {
            parent: from.0,
            name: name_of(from.1),
            new_parent: to.0,
            new_name: name_of(to.1),
            flags,
        };
        self.call(&request).map(|_| ())
    }

    pub(crate) fn read(&mut self, handle: Handle, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let request = Request::File(FileOperation::Read { handle, offset, size });
        self.call_with(&request, b"")?;
        Ok(self.data.clone())
    }

    pub(crate) fn write(&mut self, handle: Handle, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        self.write_with(handle, offset, data, false)
    }

    pub(crate) fn write_with(
        &mut self,
        handle: Handle,
        offset: u64,
        data: &[u8],
        kill: bool,
    ) -> Result<u32, Errno> {
        let request = Request::File(FileOperation::Write {
            handle,
            offset,
            size: data.len() as u32,
            kill_suidgid: kill,
        });
        match self.call_with(&request, data)? {
            Reply::Written { size } => Ok(size),
            other => panic!("{other:?}"),
        }
    }

    /// Entries from `offset` on that fit in `size` bytes.
    pub(crate) fn readdir(
        &mut self,
        handle: Handle,
        offset: u64,
        size: u32,
        plus: bool,
    ) -> Result<Vec<Listed>, Errno> {
        let request = Request::ReadDir {
            handle,
            offset,
            size,
            plus,
        };
        self.call_with(&request, b"")?;
        let mut rest = &self.data[..];
        let mut listed = Vec::new();
        while !rest.is_empty() {
            let (entry, after) = DirEntry::decode(rest).unwrap();
            rest = after;
            listed.push(Listed {
                name: String::from_utf8_lossy(entry.name.0).into_owned(),
                ino: entry.ino,
                next: entry.next,
                kind: entry.kind,
                entry: entry.entry,
            });
        }
        Ok(listed)
    }

    /// The whole directory.
    pub(crate) fn list(&mut self, handle: Handle, plus: bool) -> Vec<Listed> {
        let mut all: Vec<Listed> = Vec::new();
        loop {
            let offset = all.last().map_or(0, |last| last.next);
            match self.readdir(handle, offset, 4096, plus).unwrap() {
                page if page.is_empty() => return all,
                page => all.extend(page),
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.control = None;
        if let Some(child) = self.process.child {
            let child = Pid::from_raw(child);
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
        }
    }
}

/// An entry of a directory.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) ino: u64,
    pub(crate) next: u64,
    pub(crate) kind: u8,
    pub(crate) entry: Option<Entry>,
}

fn owned(reply: Reply<'_>) -> Reply<'static> {
    match reply {
        Reply::Target(_) => Reply::Done,
        Reply::Error(error) => Reply::Error(error),
        Reply::Done => Reply::Done,
        Reply::Entry(entry) => Reply::Entry(entry),
        Reply::Attr(attr) => Reply::Attr(attr),
        Reply::Opened { handle } => Reply::Opened { handle },
        Reply::Created { entry, handle } => Reply::Created { entry, handle },
        Reply::Data { size } => Reply::Data { size },
        Reply::Written { size } => Reply::Written { size },
        Reply::Donated => Reply::Donated,
        Reply::NotDonated => Reply::NotDonated,
        Reply::Entries { size } => Reply::Entries { size },
        Reply::StatFs(statfs) => Reply::StatFs(statfs),
        Reply::Size(size) => Reply::Size(size),
        Reply::Offset(offset) => Reply::Offset(offset),
        Reply::Copied(length) => Reply::Copied(length),
        Reply::FileFlags(flags) => Reply::FileFlags(flags),
        Reply::FsXattr(value) => Reply::FsXattr(value),
        Reply::Lock(lock) => Reply::Lock(lock),
    }
}

pub(crate) fn name_of(name: &str) -> Name<'_> {
    Name::new(name.as_bytes()).unwrap()
}

pub(crate) fn creation(caller: Caller, mode: u32, umask: u32) -> Creation<'static> {
    Creation {
        caller,
        mode,
        umask,
        security: None,
    }
}

pub(crate) fn entry_of(reply: Reply<'static>) -> Entry {
    match reply {
        Reply::Entry(entry) => entry,
        other => panic!("{other:?}"),
    }
}

fn attr_of(reply: Reply<'static>) -> Attr {
    match reply {
        Reply::Attr(attr) => attr,
        other => panic!("{other:?}"),
    }
}

fn handle_of(reply: Reply<'static>) -> Handle {
    match reply {
        Reply::Opened { handle } => handle,
        other => panic!("{other:?}"),
    }
}
