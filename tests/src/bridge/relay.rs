//! The threads between the kernel and the virtqueues.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use vm_memory::{ReadVolatile, VolatileMemoryError, WriteVolatile};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};
use zerocopy::{FromBytes, IntoBytes};

use super::device;
use super::slots::{MAX_DATA, MAX_PAGES, ROOM, Slots};
use crate::fuse::abi::{
    BATCH_FORGET, DESTROY, FORGET, IN_HEADER, INIT, INTERRUPT, InHeader, InitOut, OUT_HEADER, OutHeader,
};
use crate::vmm::queue::{Segment, Used};
use crate::vmm::{HIPRIO, Vmm, fds};

/// The token of the bridge's own DESTROY, beyond all slots.
const OWN: u64 = u64::MAX;

/// What the threads share.
#[derive(Debug)]
pub(super) struct Relay {
    vmm: Vmm,
    slots: Slots,
    /// One descriptor per reader; a reply goes to the one its request came from.
    devices: Vec<File>,
    /// Readers that still run, and the event that the last one signals.
    readers: AtomicUsize,
    ended: EventFd,
    /// Tells the completers to end.
    stop: EventFd,
    /// The daemon is gone: everything is answered EIO.
    gone: AtomicBool,
    /// The answer to INIT, and to the bridge's own DESTROY.
    init: Answer,
    destroyed: Answer,
    /// Requests of the kernel so far, by opcode.
    seen: [AtomicU64; OPCODES],
}

/// Opcodes that are counted are below this.
const OPCODES: usize = 64;

/// An answer that another thread waits for.
#[derive(Debug, Default)]
struct Answer {
    value: Mutex<Option<Result<(), Errno>>>,
    there: Condvar,
}

impl Answer {
    fn set(&self, value: Result<(), Errno>) {
        *self.value.lock().unwrap_or_else(|e| e.into_inner()) = Some(value);
        self.there.notify_all();
    }

    fn wait(&self, patience: Duration) -> Option<Result<(), Errno>> {
        let value = self.value.lock().unwrap_or_else(|e| e.into_inner());
        let (value, _) = self
            .there
            .wait_timeout_while(value, patience, |value| value.is_none())
            .unwrap_or_else(|e| e.into_inner());
        *value
    }
}

impl Relay {
    pub(super) fn new(vmm: Vmm, device: File) -> Result<Self> {
        let slots = Slots::new(vmm.memory())?;
        let mut devices = vec![device];
        // Two at least: one takes the next request while the other is still queueing one.
        for _ in 1..vmm.request_queues().max(2) {
            devices.push(device::clone(&devices[0])?);
        }
        Ok(Self {
            readers: AtomicUsize::new(devices.len()),
            vmm,
            slots,
            devices,
            ended: EventFd::new(EFD_CLOEXEC).context("eventfd")?,
            stop: EventFd::new(EFD_CLOEXEC).context("eventfd")?,
            gone: AtomicBool::new(false),
            init: Answer::default(),
            destroyed: Answer::default(),
            seen: std::array::from_fn(|_| AtomicU64::new(0)),
        })
    }

    pub(super) fn seen(&self, opcode: u32) -> u64 {
        self.seen
            .get(opcode as usize)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    pub(super) fn wait_init(&self, patience: Duration) -> Option<Result<(), Errno>> {
        self.init.wait(patience)
    }

    pub(super) fn wait_end_or(&self, fd: BorrowedFd<'_>) -> bool {
        loop {
            match fds::wait([fds::borrow(&self.ended), fd], u16::MAX) {
                [true, _] => return true,
                [_, true] => return false,
                _ => {}
            }
        }
    }

    pub(super) fn wait_readers(&self) {
        while !fds::wait([fds::borrow(&self.ended)], u16::MAX)[0] {}
    }

    /// Ends the completers.
    pub(super) fn stop(&self) {
        self.stop.write(1).expect("an eventfd counts to one");
    }

    /// DESTROY, which the kernel sends for virtio-fs but not for /dev/fuse.
    pub(super) fn destroy(&self) {
        if self.init.wait(Duration::ZERO) != Some(Ok(())) || self.gone.load(Ordering::Relaxed) {
            return;
        }
        let slot = self.slots.take(0);
        let header = InHeader {
            len: IN_HEADER as u32,
            opcode: DESTROY,
            ..InHeader::default()
        };
        let (request, reply) = self.slots.addresses(slot);
        self.vmm.memory().write(request, header.as_bytes());
        let segments = [
            Segment::request(request, IN_HEADER),
            Segment::reply(reply, OUT_HEADER),
        ];
        let mut queue = self.vmm.queue(HIPRIO + 1);
        if queue.add(&segments, OWN) {
            queue.publish();
            drop(queue);
            // Go on also if the daemon does not answer.
            self.destroyed.wait(Duration::from_secs(5));
        }
    }

    /// Moves requests from the kernel to a queue until the directory is unmounted.
    fn read(&self, reader: usize) {
        let mut device = &self.devices[reader];
        let queue = HIPRIO + 1 + reader % self.vmm.request_queues();
        loop {
            let slot = self.slots.take(reader);
            let mut room = self.slots.request(self.vmm.memory(), slot);
            let len = loop {
                match read_errno(device.read_volatile(&mut room)) {
                    Ok(len) => break len,
                    // The request was interrupted before it was taken.
                    Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => {}
                    Err(errno) => {
                        if errno != Errno::ENODEV && errno != Errno::ECONNABORTED {
                            eprintln!("airlockfs-bridge: read /dev/fuse: {errno}");
                        }
                        self.slots.give(slot);
                        return;
                    }
                }
            };
            self.queue(slot, len, queue);
        }
    }

    fn queue(&self, slot: usize, len: usize, queue: usize) {
        let header = self.slots.header(self.vmm.memory(), slot);
        if let Some(count) = self.seen.get(header.opcode as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let (request, reply) = self.slots.addresses(slot);
        let queue = match header.opcode {
            FORGET | BATCH_FORGET | INTERRUPT => HIPRIO,
            _ => queue,
        };
        let room = self.slots.reply_room(self.vmm.memory(), slot, header.opcode, len);
        let segments = [
            Segment::request(request, len),
            Segment::reply(reply, OUT_HEADER),
            Segment::reply(reply + OUT_HEADER as u64, room),
        ];
        let count = match header.opcode {
            FORGET | BATCH_FORGET => 1,
            _ if room == 0 => 2,
            _ => 3,
        };
        {
            let mut queue = self.vmm.queue(queue);
            // Read under the lock: who sets it answers all queued requests under the same lock.
            if !self.gone.load(Ordering::Relaxed) {
                assert!(
                    queue.add(&segments[..count], slot as u64),
                    "more slots than descriptors"
                );
                queue.publish();
                return;
            }
        }
        self.fail(&header, slot);
    }

    /// Hands the replies of one queue back to the kernel.
    fn complete(&self, queue: usize) {
        let call = self.vmm.queue(queue).call_fd();
        loop {
            let (used, sleep) = {
                let mut queue = self.vmm.queue(queue);
                match queue.take() {
                    Some(used) => (Some(used), false),
                    None => (None, queue.arm()),
                }
            };
            if let Some(used) = used {
                self.finish(used);
            } else if sleep {
                let [called, stopped, socket] = fds::wait(
                    [call.as_fd(), fds::borrow(&self.stop), self.vmm.socket().as_fd()],
                    u16::MAX,
                );
                if stopped {
                    return;
                }
                if socket && !called {
                    self.abandon(queue);
                    return;
                }
            }
        }
    }

    fn finish(&self, used: Used) {
        if used.token == OWN {
            self.destroyed.set(Ok(()));
            return;
        }
        let (slot, len) = (used.token as usize, used.len as usize);
        let header = self.slots.header(self.vmm.memory(), slot);
        match header.opcode {
            FORGET | BATCH_FORGET => {}
            INTERRUPT => self.reply_to_interrupt(slot, len),
            opcode => {
                if opcode == INIT {
                    self.see_init(slot, len);
                }
                // The virtio-fs driver turns a malformed reply into EIO.
                if len < OUT_HEADER || self.reply(slot, len) == Err(Errno::EINVAL) {
                    eprintln!("airlockfs-bridge: a bad reply of {len} bytes to {header:?}");
                    self.fail(&header, slot);
                    return;
                }
            }
        }
        self.slots.give(slot);
    }

    /// Writes a reply from where the daemon left it.
    fn reply(&self, slot: usize, len: usize) -> Result<(), Errno> {
        let bytes = self.slots.reply(self.vmm.memory(), slot, len.min(ROOM));
        let mut device = &self.devices[self.slots.reader(slot)];
        match read_errno(device.write_volatile(&bytes)) {
            // The kernel gave the request up, or the mount is gone.
            Ok(_) | Err(Errno::ENOENT | Errno::ENODEV | Errno::EPERM) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// INTERRUPT is answered only to say 'again' or 'never', on the descriptor of the request it is
    /// about.
    fn reply_to_interrupt(&self, slot: usize, len: usize) {
        if len < OUT_HEADER {
            return;
        }
        let bytes = self.slots.reply(self.vmm.memory(), slot, len.min(ROOM));
        for mut device in &self.devices {
            if device.write_volatile(&bytes).is_ok() {
                return;
            }
        }
    }

    /// Answers EIO for the daemon, and gives the slot back.
    fn fail(&self, header: &InHeader, slot: usize) {
        if !matches!(header.opcode, FORGET | BATCH_FORGET | INTERRUPT) {
            let reply = OutHeader {
                len: OUT_HEADER as u32,
                error: -(Errno::EIO as i32),
                unique: header.unique,
            };
            let mut device = &self.devices[self.slots.reader(slot)];
            // The kernel refuses it only when it does not wait for it any more.
            let _ = device.write_all(reply.as_bytes());
            if header.opcode == INIT {
                self.init.set(Err(Errno::EIO));
            }
        }
        self.slots.give(slot);
    }

    /// The daemon closed its socket: nothing of this queue will be completed.
    fn abandon(&self, index: usize) {
        let pending = {
            let mut queue = self.vmm.queue(index);
            self.gone.store(true, Ordering::Relaxed);
            let mut done = Vec::new();
            while let Some(used) = queue.take() {
                done.push(used);
            }
            drop(queue);
            for used in done {
                self.finish(used);
            }
            self.vmm.queue(index).abandon()
        };
        for token in pending {
            if token == OWN {
                self.destroyed.set(Err(Errno::EIO));
            } else {
                let slot = token as usize;
                self.fail(&self.slots.header(self.vmm.memory(), slot), slot);
            }
        }
    }

    /// Notes the answer to INIT, and keeps the sizes in it within what the slots hold, as the
    /// driver does by the size of its queue.
    fn see_init(&self, slot: usize, len: usize) {
        let memory = self.vmm.memory();
        let (_, reply) = self.slots.addresses(slot);
        let mut bytes = [0; OUT_HEADER];
        memory.read(reply, &mut bytes);
        let header = OutHeader::read_from_bytes(&bytes).expect("as many bytes as the header has");
        if len < OUT_HEADER || header.error != 0 {
            self.init.set(Err(Errno::from_raw(-header.error)));
            return;
        }
        if len >= OUT_HEADER + size_of::<InitOut>() {
            let mut bytes = [0; size_of::<InitOut>()];
            memory.read(reply + OUT_HEADER as u64, &mut bytes);
            let mut out = InitOut::read_from_bytes(&bytes).expect("as many bytes");
            out.max_write = out.max_write.min(MAX_DATA);
            out.max_pages = out.max_pages.min(MAX_PAGES);
            memory.write(reply + OUT_HEADER as u64, out.as_bytes());
        }
        self.init.set(Ok(()));
    }
}

/// Starts a reader per descriptor and a completer per queue.
pub(super) fn start(relay: &Arc<Relay>) -> Vec<JoinHandle<()>> {
    let mut threads = Vec::new();
    for queue in 0..=relay.vmm.request_queues() {
        let relay = Arc::clone(relay);
        threads.push(spawn(move || relay.complete(queue)));
    }
    for reader in 0..relay.devices.len() {
        let relay = Arc::clone(relay);
        threads.push(spawn(move || {
            relay.read(reader);
            if relay.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
                relay.ended.write(1).expect("an eventfd counts to one");
            }
        }));
    }
    threads
}

fn read_errno(result: Result<usize, VolatileMemoryError>) -> Result<usize, Errno> {
    result.map_err(|error| match error {
        VolatileMemoryError::IOError(io) => Errno::from_raw(io.raw_os_error().unwrap_or(0)),
        _ => Errno::EFAULT,
    })
}
