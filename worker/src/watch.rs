//! The thread that sees to it that a call which hangs holds up nobody. It never makes a call on the share itself.
//!
//! While requests are served it looks at the lanes every few milliseconds; at rest it sleeps, and costs nothing. Of each lane it
//! compares two counts. One whose requests do not get on, though no thread waits for more, has lost its thread to a call: a
//! spare is called. One whose requests get on slowly while others wait has calls that wait for a disk: more threads are called,
//! twice as many each time. When all hang, requests are parked: they wait for a thread that comes free, and are answered EIO
//! when they have waited for too long, but for those that must not get lost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use airlockfs_ipc::{
    Errno, ProtocolError,
    message::{Reply, Request},
    ring::{Glance, MessageBuffer, WorkerLane},
};

use crate::{crew::Crew, ops::lookup, stalled::Stalled};

/// From one look at the lanes to the next. A call may take one to two of these before the lane goes to another thread.
const TICK: Duration = Duration::from_millis(4);
/// Looks at lanes where nothing happens, after which it sleeps: to wake it costs a request more than to find it awake.
const LINGER: u32 = 8;
/// Fewer requests than these from look to look, while others wait, are slow ones.
const FEW: u32 = 32;
/// Most threads that slow requests of one lane have.
const CROWD: u16 = 8;
/// Spares that are left for lanes whose thread hangs.
const KEPT: usize = 4;

/// What was seen of a lane.
#[derive(Clone, Copy, Default)]
struct Seen {
    begun: u32,
    others_waited: bool,
}

/// Watches for ever. `limit`: how long a request waits at most while all threads hang.
pub(crate) fn watch(crew: &Arc<Crew>, limit: Duration) -> ProtocolError {
    let mut watch = Watch {
        crew,
        limit,
        seen: vec![Seen::default(); crew.lanes().len()],
        buffer: MessageBuffer::new(),
        stalled: Stalled::new(crew.lanes().len()),
    };
    loop {
        if let Err(error) = watch.round() {
            return error;
        }
    }
}

struct Watch<'a> {
    crew: &'a Arc<Crew>,
    limit: Duration,
    seen: Vec<Seen>,
    buffer: MessageBuffer,
    stalled: Stalled,
}

impl Watch<'_> {
    /// Sleeps until there is work, and watches it until there is none.
    fn round(&mut self) -> Result<(), ProtocolError> {
        let lanes = self.crew.lanes();
        let again = self.stalled.look(lanes, &mut self.buffer);
        self.crew.alarm.sleep(again, || lanes.iter().all(is_at_rest));
        let mut quiet = 0;
        while quiet < LINGER {
            self.crew.alarm.pause(TICK);
            let now = Instant::now();
            let mut any = false;
            for number in 0..lanes.len() {
                any |= self.look(number, now)?;
            }
            quiet = if any { 0 } else { quiet + 1 };
            self.stalled.look_now_and_then(now, lanes, &mut self.buffer);
        }
        Ok(())
    }

    /// Looks at a lane. False: nothing happens there.
    fn look(&mut self, number: usize, now: Instant) -> Result<bool, ProtocolError> {
        let (Some(lane), Some(seen)) = (self.crew.lane(number), self.seen.get_mut(number)) else {
            return Ok(false);
        };
        let glance = lane.glance();
        let last = std::mem::replace(
            seen,
            Seen {
                begun: glance.begun,
                others_waited: glance.waiting > 0,
            },
        );
        let done = glance.begun.wrapping_sub(last.begun);
        let slow = done < FEW && last.others_waited && glance.waiting > 0;
        if done == 0 && !glance.is_kept && !glance.are_coming {
            // Answers may lie ready that the thread meant to tell of after this request.
            lane.flush();
            if !self.crew.call(number) {
                self.park(lane, now)?;
            }
        } else if slow && !glance.are_coming {
            self.crowd(lane, number, &glance);
        } else if !slow && glance.wanted > 1 {
            lane.want(1);
        }
        Ok(done > 0 || !glance.is_kept || glance.waiting > 0)
    }

    /// Calls more threads to a lane whose requests are slow, but never the last spares.
    fn crowd(&self, lane: &WorkerLane, number: usize, glance: &Glance) {
        let wanted = glance.wanted.saturating_mul(2).min(CROWD);
        lane.want(wanted);
        let waiting = u16::try_from(glance.waiting).unwrap_or(u16::MAX);
        for _ in 0..wanted.saturating_sub(glance.wanted).min(waiting) {
            if self.crew.spare() <= KEPT || !self.crew.call(number) {
                return;
            }
        }
    }

    /// No thread is free for a lane: its requests wait for one, but not for ever.
    fn park(&mut self, lane: &WorkerLane, now: Instant) -> Result<(), ProtocolError> {
        while let Some(ticket) =
            lane.park(now, &mut self.buffer, |request| matches!(request, Request::Reset))?
        {
            // The next session must not wait for calls of this one.
            drop(self.crew.reset()?);
            lane.answer(ticket, &Reply::Done);
        }
        let Some(before) = now.checked_sub(self.limit) else {
            return Ok(());
        };
        while let Some((ticket, request)) = lane.take_parked(before, &mut self.buffer)? {
            let errand = lookup::not_to_be_lost(&request);
            let reply = match errand {
                Some(_) => Reply::Done,
                None => Reply::Error(Errno::EIO),
            };
            self.stalled.refused += u64::from(errand.is_none());
            lane.answer(ticket, &reply);
            errand
                .into_iter()
                .for_each(|errand| self.crew.leave_to_spare(errand));
        }
        Ok(())
    }
}

/// A thread waits for requests, and there are none.
fn is_at_rest(lane: &WorkerLane) -> bool {
    let glance = lane.glance();
    glance.is_kept && glance.waiting == 0
}
