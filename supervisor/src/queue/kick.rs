//! The vring as vhost-user-backend keeps it, but for its kick: there the end of a read that finds nothing ends the
//! queue's thread, here it is a look for nothing.

use std::{
    fs::File,
    io::{self, ErrorKind},
};

use vhost_user_backend::{VringMutex, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::Error;

use crate::guest_memory::SharedMemory;

type Inner = VringMutex<SharedMemory>;
type Guard<'a> = <Inner as VringStateGuard<'a, SharedMemory>>::G;
type MutGuard<'a> = <Inner as VringStateMutGuard<'a, SharedMemory>>::G;

/// A virtqueue's state, shared by the connection's thread and the queue's.
#[derive(Clone)]
pub(crate) struct Vring(Inner);

impl<'a> VringStateGuard<'a, SharedMemory> for Vring {
    type G = Guard<'a>;
}

impl<'a> VringStateMutGuard<'a, SharedMemory> for Vring {
    type G = MutGuard<'a>;
}

impl VringT<SharedMemory> for Vring {
    /// Takes a kick. Between the wake-up and this the VMM may have taken it back, or stopped the ring and started it
    /// with another descriptor (it does both when a guest reboots): then there is nothing to read, and what there is to
    /// do shows in the ring.
    fn read_kick(&self) -> io::Result<bool> {
        match self.0.read_kick() {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Ok(self.0.get_ref().is_enabled())
            }
            other => other,
        }
    }

    fn new(memory: SharedMemory, max_queue_size: u16) -> Result<Self, Error> {
        Inner::new(memory, max_queue_size).map(Self)
    }

    fn get_ref(&self) -> Guard<'_> {
        self.0.get_ref()
    }

    fn get_mut(&self) -> MutGuard<'_> {
        self.0.get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), Error> {
        self.0.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.0.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, Error> {
        self.0.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), Error> {
        self.0.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, Error> {
        self.0.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.0.set_enabled(enabled);
    }

    fn set_queue_info(&self, desc_table: u64, avail_ring: u64, used_ring: u64) -> Result<(), Error> {
        self.0.set_queue_info(desc_table, avail_ring, used_ring)
    }

    fn queue_next_avail(&self) -> u16 {
        self.0.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.0.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, index: u16) {
        self.0.set_queue_next_used(index);
    }

    fn queue_used_idx(&self) -> Result<u16, Error> {
        self.0.queue_used_idx()
    }

    fn set_queue_size(&self, size: u16) {
        self.0.set_queue_size(size);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.0.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.0.set_queue_ready(ready);
    }

    fn set_kick(&self, file: Option<File>) {
        self.0.set_kick(file);
    }

    fn set_call(&self, file: Option<File>) {
        self.0.set_call(file);
    }

    fn set_err(&self, file: Option<File>) {
        self.0.set_err(file);
    }
}
