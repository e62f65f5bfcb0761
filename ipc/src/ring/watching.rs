//! What the worker's watching thread sees of a lane and does to it. It takes the lane's lock and makes no call that can hang.

use std::{sync::atomic::Ordering::Acquire, time::Instant};

use super::{
    layout,
    memory::MessageBuffer,
    worker::{Ticket, Use, WorkerLane},
};
use crate::{ProtocolError, message::Request};

/// What shows of a lane.
#[derive(Debug, Clone, Copy)]
pub struct Glance {
    /// Requests that threads took, modulo 2³².
    pub begun: u32,
    /// Requests that no thread took.
    pub waiting: u32,
    /// A thread waits for requests.
    pub is_kept: bool,
    /// Threads were called and have not come.
    pub are_coming: bool,
    /// Threads that serve it, or will, those that hang included.
    pub hands: u16,
    /// How many may serve it at once.
    pub wanted: u16,
}

impl WorkerLane {
    /// Looks at it.
    pub fn glance(&self) -> Glance {
        let state = self.0.state();
        let ring = self.0.memory.word(layout::SUBMITTED).load(Acquire);
        Glance {
            begun: state.begun,
            waiting: ring
                .wrapping_sub(state.taken)
                .saturating_add(state.parked.len() as u32),
            is_kept: state.hands.is_waiting(),
            are_coming: state.hands.are_coming(),
            hands: state.hands.expected(),
            wanted: state.hands.wanted(),
        }
    }

    /// Says that a thread was called, which will join.
    pub fn call(&self) {
        self.0.state().hands.call();
    }

    /// How many threads may serve it at once, besides those that hang; at least one does.
    pub fn want(&self, hands: u16) {
        self.0.state().hands.want(hands.max(1));
    }

    /// Takes any request that no thread took, to be [answered](Self::answer).
    pub fn take<'a>(
        &self,
        buffer: &'a mut MessageBuffer,
    ) -> Result<Option<(Ticket, Request<'a>)>, ProtocolError> {
        let taken = self.0.take(&mut self.0.state())?;
        taken.map(|taken| self.0.read(taken, buffer)).transpose()
    }

    /// Takes requests from the ring, and has them wait for the next thread that comes, before all that come later; until one
    /// is `urgent`: to be answered now.
    pub fn park(
        &self,
        now: Instant,
        buffer: &mut MessageBuffer,
        urgent: impl Fn(&Request<'_>) -> bool,
    ) -> Result<Option<Ticket>, ProtocolError> {
        loop {
            let taken = self.0.take_from_ring(&mut self.0.state(), Use::Parked)?;
            let Some(taken) = taken else {
                return Ok(None);
            };
            let (ticket, request) = self.0.read(taken, buffer)?;
            if urgent(&request) {
                return Ok(Some(ticket));
            }
            self.0.state().parked.push_back((taken, now));
        }
    }

    /// Takes a request that was [parked](Self::park) before that time, to be [answered](Self::answer).
    pub fn take_parked<'a>(
        &self,
        before: Instant,
        buffer: &'a mut MessageBuffer,
    ) -> Result<Option<(Ticket, Request<'a>)>, ProtocolError> {
        let parked = {
            let mut state = self.0.state();
            let old = state.parked.front().is_some_and(|(_, since)| *since < before);
            old.then(|| state.parked.pop_front()).flatten()
        };
        parked.map(|(taken, _)| self.0.read(taken, buffer)).transpose()
    }

    /// Calls `see` for each request that a thread took and has not answered: its number ([`Glance::begun`]), and the
    /// message as it stands in shared memory now.
    pub fn each_begun(&self, buffer: &mut MessageBuffer, mut see: impl FnMut(u32, Option<&Request<'_>>)) {
        let slots = self.0.state().slots;
        for (slot, used) in (0..).zip(slots) {
            if let Use::Begun(number) = used {
                let message = layout::message(slot);
                let message = self.0.memory.copy_out(message, layout::MESSAGE_MAX, buffer);
                let request = postcard::take_from_bytes(message).ok();
                see(number, request.as_ref().map(|(request, _)| request));
            }
        }
    }
}
