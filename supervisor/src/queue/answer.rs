//! Step 7: answers on their way back to the virtqueue that they belong to.

use airlockfs_ipc::Errno;

use super::{Group, Queue, vring::Held};
use crate::{
    backend::Vring,
    fuse,
    guest_memory::Memory,
    pending::{Caller, Head},
};

impl Group {
    /// Publishes what was answered in all queues.
    pub(crate) fn publish(&mut self, vrings: &[Vring], memory: &Memory) -> bool {
        self.moved = 0;
        let queues = self.queues.iter_mut().zip(vrings);
        queues.fold(false, |any, (queue, vring)| queue.publish(vring, memory) | any)
    }

    /// The chain goes back to the guest, which finds `length` bytes written.
    pub(crate) fn put_used(&mut self, head: Head, length: usize) {
        if let Some(queue) = self.queues.get_mut(usize::from(head.queue)) {
            queue.put_used(head.index, length);
        }
    }

    /// The chain is not given back: the guest's ring is gone, or it was answered already.
    pub(crate) fn drop_taken(&mut self, head: Head) {
        if let Some(queue) = self.queues.get_mut(usize::from(head.queue)) {
            queue.drop_taken();
        }
    }

    /// The chain's request makes no sense: why.
    pub(crate) fn malformed(&self, head: Head, why: &dyn std::fmt::Display) {
        let number = self.queues.get(usize::from(head.queue)).map(|queue| queue.number);
        self.shared.count_malformed(number.unwrap_or_default(), why);
    }

    /// The result of waiting for a lock: now, or once it is known whether the ring goes on.
    pub(crate) fn answer_lock(&mut self, caller: Caller, error: Option<Errno>, memory: &Memory) {
        let chain = std::mem::take(&mut self.chain);
        let queue = self.queues.get_mut(usize::from(caller.head.queue));
        if let Some(held) = queue.and_then(|queue| queue.hold((caller, error, chain))) {
            self.tell_lock(held, memory);
        }
    }

    /// Answers those that were held back while their ring was stopped.
    pub(super) fn release_held(&mut self, memory: &Memory) -> bool {
        let mut any = false;
        for place in 0..self.queues.len() {
            let held = self.queues.get_mut(place).map(Queue::release_held);
            for held in held.into_iter().flatten() {
                any = true;
                self.tell_lock(held, memory);
            }
        }
        any
    }

    fn tell_lock(&mut self, (caller, error, chain): Held, memory: &Memory) {
        self.chain = chain;
        match error {
            Some(errno) => self.answer_error(caller, errno, memory),
            None => self.answer(caller, &fuse::reply::header(caller.unique, 0), 0, memory),
        }
    }
}
