//! The driver's side of a virtqueue: chains in, completions out, kicks and calls only when the
//! other side sleeps.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use anyhow::{Context, Result};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use zerocopy::IntoBytes;

use super::memory::Memory;
use super::ring::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Desc, Ring, USED_NO_NOTIFY};

/// Most descriptors of one chain of the harness: header, body and data each way leave room.
pub const MAX_CHAIN: usize = 16;

/// One buffer of a request.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// The device writes it (reply) instead of reading it (request).
    pub device_writes: bool,
}

impl Segment {
    /// A buffer the device reads.
    pub fn request(addr: u64, len: usize) -> Self {
        Self {
            addr,
            len: len as u32,
            device_writes: false,
        }
    }

    /// A buffer the device writes.
    pub fn reply(addr: u64, len: usize) -> Self {
        Self {
            addr,
            len: len as u32,
            device_writes: true,
        }
    }
}

/// A completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What [`Queue::add`] was given.
    pub token: u64,
    /// Bytes the device says it wrote.
    pub len: u32,
}

/// A virtqueue as its driver sees it.
#[derive(Debug)]
pub struct Queue {
    memory: Arc<Memory>,
    ring: Ring,
    event_idx: bool,
    /// Guest address of one table of [`MAX_CHAIN`] descriptors per head, when indirect descriptors
    /// are used.
    indirect: Option<u64>,
    kick: EventFd,
    call: Arc<CallFd>,
    /// Free descriptors; a chain takes one (indirect) or as many as it has segments.
    free: Vec<u16>,
    /// Token and descriptors by head.
    in_flight: Vec<Option<(u64, [u16; MAX_CHAIN], u8)>>,
    /// Next position of the available ring, and how much of it is published.
    next_avail: u16,
    published: u16,
    /// Next position of the used ring.
    next_used: u16,
}

/// The descriptor on which the device calls; readable without holding the queue.
#[derive(Debug)]
pub struct CallFd(pub(super) EventFd);

impl CallFd {
    /// Takes what was signalled, if anything.
    pub fn clear(&self) {
        // EAGAIN only says that there was nothing to take.
        let _ = self.0.read();
    }
}

impl AsFd for CallFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        super::fds::borrow(&self.0)
    }
}

impl Queue {
    pub(super) fn new(memory: Arc<Memory>, size: u16, event_idx: bool, indirect: bool) -> Result<Self> {
        let ring = Ring::new(&memory, size)?;
        let indirect = if indirect {
            Some(memory.alloc(16 * MAX_CHAIN * usize::from(size), 4096)?)
        } else {
            None
        };
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).context("eventfd");
        let mut queue = Self {
            memory,
            ring,
            event_idx,
            indirect,
            kick: event()?,
            call: Arc::new(CallFd(event()?)),
            free: Vec::with_capacity(usize::from(size)),
            in_flight: Vec::new(),
            next_avail: 0,
            published: 0,
            next_used: 0,
        };
        queue.clear();
        Ok(queue)
    }

    /// Empties the ring: what a guest's driver does when it takes over a device that was reset.
    pub(super) fn clear(&mut self) {
        self.ring.clear(&self.memory);
        self.free = (0..self.ring.size).rev().collect();
        self.in_flight = vec![None; usize::from(self.ring.size)];
        self.next_avail = 0;
        self.published = 0;
        self.next_used = 0;
        self.call.clear();
        let _ = self.kick.read();
    }

    pub(super) fn kick_fd(&self) -> &EventFd {
        &self.kick
    }

    /// Where the ring is, to write into it what a driver would not.
    pub fn ring(&self) -> Ring {
        self.ring
    }

    /// The descriptor on which the device calls.
    pub fn call_fd(&self) -> Arc<CallFd> {
        Arc::clone(&self.call)
    }

    /// Chains given to the device and not yet taken back.
    pub fn in_flight(&self) -> usize {
        self.in_flight.iter().flatten().count()
    }

    /// Adds a chain; the device sees it after [`Queue::publish`]. False when the ring has no room
    /// for it.
    ///
    /// # Panics
    /// When the chain is empty or longer than [`MAX_CHAIN`].
    pub fn add(&mut self, segments: &[Segment], token: u64) -> bool {
        assert!(!segments.is_empty() && segments.len() <= MAX_CHAIN);
        let needed = if self.indirect.is_some() {
            1
        } else {
            segments.len()
        };
        if self.free.len() < needed {
            return false;
        }
        let mut taken = [0; MAX_CHAIN];
        for index in &mut taken[..needed] {
            *index = self.free.pop().expect("counted above");
        }
        let head = taken[0];
        let mut descs = [Desc::default(); MAX_CHAIN];
        let last = segments.len() - 1;
        for (i, segment) in segments.iter().enumerate() {
            let next = if self.indirect.is_some() {
                i as u16 + 1
            } else {
                taken[(i + 1) % MAX_CHAIN]
            };
            descs[i] = Desc {
                addr: segment.addr,
                len: segment.len,
                flags: if segment.device_writes { DESC_WRITE } else { 0 }
                    | if i < last { DESC_NEXT } else { 0 },
                next: if i < last { next } else { 0 },
            };
        }
        if let Some(tables) = self.indirect {
            let table = tables + 16 * MAX_CHAIN as u64 * u64::from(head);
            self.memory.write(table, descs[..segments.len()].as_bytes());
            let desc = Desc {
                addr: table,
                len: 16 * segments.len() as u32,
                flags: DESC_INDIRECT,
                next: 0,
            };
            self.ring.set_desc(&self.memory, head, desc);
        } else {
            for (index, desc) in taken.iter().zip(&descs[..segments.len()]) {
                self.ring.set_desc(&self.memory, *index, *desc);
            }
        }
        self.in_flight[usize::from(head)] = Some((token, taken, needed as u8));
        self.ring.set_avail(&self.memory, self.next_avail, head);
        self.next_avail = self.next_avail.wrapping_add(1);
        true
    }

    /// Shows the device all chains added, and kicks it if it asks for that.
    pub fn publish(&mut self) {
        let old = self.published;
        let new = self.next_avail;
        if old == new {
            return;
        }
        self.ring.set_avail_index(&self.memory, new);
        self.published = new;
        // The index must be visible before the device's request for kicks is read, or both sides
        // sleep.
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event = self.ring.avail_event(&self.memory);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.ring.used_flags(&self.memory) & USED_NO_NOTIFY == 0
        };
        if wanted {
            self.kick();
        }
    }

    /// Kicks the device whether it wants that or not.
    pub fn kick(&self) {
        // A full counter is a kick too.
        let _ = self.kick.write(1);
    }

    /// Reads kicks that the device has not read, and returns how many. Our device reads none.
    pub fn take_kicks_back(&self) -> u64 {
        // EAGAIN only says that there was nothing to take.
        self.kick.read().unwrap_or(0)
    }

    /// The next completion, if there is one.
    ///
    /// # Panics
    /// When the device completes what it did not get. No guest would survive that.
    pub fn take(&mut self) -> Option<Used> {
        if self.ring.used_index(&self.memory) == self.next_used {
            return None;
        }
        let (head, len) = self.ring.used_element(&self.memory, self.next_used);
        self.next_used = self.next_used.wrapping_add(1);
        let entry = self.in_flight.get_mut(head as usize).and_then(Option::take);
        let Some((token, descs, count)) = entry else {
            panic!("the device completed descriptor {head}, which it does not own");
        };
        self.free.extend(&descs[..usize::from(count)]);
        Some(Used { token, len })
    }

    /// A completion of a chain written past the bookkeeping, as head and length.
    pub fn take_raw(&mut self) -> Option<(u32, u32)> {
        if self.ring.used_index(&self.memory) == self.next_used {
            return None;
        }
        let element = self.ring.used_element(&self.memory, self.next_used);
        self.next_used = self.next_used.wrapping_add(1);
        Some(element)
    }

    /// Makes these heads available as they are, bypassing the bookkeeping, and kicks.
    pub fn publish_raw(&mut self, heads: &[u16]) {
        for head in heads {
            self.ring.set_avail(&self.memory, self.next_avail, *head);
            self.next_avail = self.next_avail.wrapping_add(1);
        }
        self.ring.set_avail_index(&self.memory, self.next_avail);
        self.published = self.next_avail;
        fence(Ordering::SeqCst);
        self.kick();
    }

    /// Asks to be called for the next completion. True when nothing is there yet, so that waiting
    /// makes sense.
    pub fn arm(&mut self) -> bool {
        self.call.clear();
        self.ask()
    }

    /// The same without taking what was signalled before: the wait may end at once, and a system
    /// call is saved.
    pub fn ask(&mut self) -> bool {
        if self.event_idx {
            self.ring.set_used_event(&self.memory, self.next_used);
        }
        // The request for a call must be visible before the index is read, or both sides sleep.
        fence(Ordering::SeqCst);
        self.ring.used_index(&self.memory) == self.next_used
    }

    /// Forgets all chains the device still holds, and returns their tokens: for a device that is
    /// gone.
    pub fn abandon(&mut self) -> Vec<u64> {
        self.in_flight
            .iter_mut()
            .filter_map(Option::take)
            .map(|(token, ..)| token)
            .collect()
    }
}
