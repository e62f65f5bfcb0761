//! The threads that serve requests: one for each lane, and spares.
//!
//! No call on the share says beforehand whether it returns soon, late or never. So no thread belongs to a lane: each serves
//! the one it was called to, and goes when another serves it. Who calls: the [watching thread](crate::watch), when a
//! lane's requests do not get on; and a thread that is about to do what is known to take long. Which one then keeps
//! the lane is decided as [`airlockfs_ipc::ring`] says. A thread whose call hangs is missed until the call returns, and nothing
//! else: it answers that request and is a spare again.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, sync_channel},
    },
    thread,
    time::Duration,
};

use airlockfs_ipc::{
    Errno, ProtocolError,
    message::Reply,
    ring::{Alarm, Hand, MessageBuffer, WorkerLane},
};
use airlockfs_policy::ExitKind;

use crate::{gate::Gate, ops::lookup, serve::Server, session, sys, volume::Volume};

/// Room for what a thread does: the largest are a path of 4 KiB and a few names.
const STACK: usize = 256 << 10;
/// Most things that are left for a thread that comes free. More are only there while all hang, and lost then.
const ERRANDS: usize = 4096;

/// Something that a thread is to do which nobody waits for.
pub(crate) type Errand = Box<dyn FnOnce(&Volume) + Send>;

/// All of them.
pub(crate) struct Crew {
    lanes: Vec<WorkerLane>,
    volume: Arc<Volume>,
    /// Wakes the watching thread.
    pub(crate) alarm: Arc<Alarm>,
    state: Mutex<State>,
    called: Condvar,
}

#[derive(Default)]
struct State {
    /// Threads that have nothing to do.
    spare: usize,
    /// Lanes that they were called to, fewer than there are spares.
    calls: VecDeque<usize>,
    errands: VecDeque<Errand>,
}

impl Crew {
    /// For these lanes, whose threads ring `alarm`.
    pub(crate) fn new(lanes: Vec<WorkerLane>, volume: Arc<Volume>, alarm: Arc<Alarm>) -> Self {
        Self {
            lanes,
            volume,
            alarm,
            state: Mutex::default(),
            called: Condvar::new(),
        }
    }

    /// Starts a thread for each lane and so many spares, behind `gate`; they run as long as the process. How many there are.
    pub(crate) fn start(
        self: &Arc<Self>,
        spares: u16,
        poll: Duration,
        gate: &Arc<Gate>,
    ) -> io::Result<usize> {
        let count = self.lanes.len() + usize::from(spares);
        // Whether a thread is called is a matter of time: it takes no memory.
        self.state().calls.reserve(count);
        for number in 0..count {
            let (crew, gate) = (self.clone(), gate.clone());
            let name = match self.lanes.get(number) {
                Some(lane) => {
                    lane.call();
                    format!("lane-{number}")
                }
                None => format!("spare-{number}"),
            };
            thread::Builder::new()
                .name(name)
                .stack_size(STACK)
                .spawn(move || {
                    // Far fewer than 2¹⁶.
                    let hand = Hand::new(number as u16, poll);
                    let server = Server::new(hand, crew.volume.config.xattr);
                    gate.pass();
                    broken(crew.run(number, server))
                })?;
        }
        Ok(count)
    }

    /// The lane of a number.
    pub(crate) fn lane(&self, number: usize) -> Option<&WorkerLane> {
        self.lanes.get(number)
    }

    /// All of them.
    pub(crate) fn lanes(&self) -> &[WorkerLane] {
        &self.lanes
    }

    /// What is shared.
    pub(crate) fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Calls a spare thread to a lane; false if there is none.
    pub(crate) fn call(&self, number: usize) -> bool {
        let Some(lane) = self.lanes.get(number) else {
            return false;
        };
        let mut state = self.state();
        let there_is = state.spare > state.calls.len();
        if there_is {
            state.calls.push_back(number);
            lane.call();
            drop(state);
            self.called.notify_one();
        }
        there_is
    }

    /// How many threads have nothing to do.
    pub(crate) fn spare(&self) -> usize {
        let state = self.state();
        state.spare.saturating_sub(state.calls.len())
    }

    /// Leaves something to a thread that has nothing else to do.
    pub(crate) fn leave_to_spare(&self, errand: Errand) {
        let mut state = self.state();
        if state.errands.len() < ERRANDS {
            state.errands.push_back(errand);
            drop(state);
            self.called.notify_one();
        }
    }

    /// The session is over: what waits in any lane is refused, whoever asked for it being gone, and the tables are emptied.
    /// Gives what is disconnected when all is closed that was open, which may be never.
    pub(crate) fn reset(&self) -> Result<Receiver<()>, ProtocolError> {
        let mut buffer = MessageBuffer::new();
        for lane in &self.lanes {
            while let Some((ticket, _)) = lane.take(&mut buffer)? {
                lane.answer(ticket, &Reply::Error(Errno::EIO));
            }
        }
        let (session, remains) = lookup::reset(&self.volume);
        let (tell, closed) = sync_channel(0);
        session.tell_end(tell);
        self.leave_to_spare(Box::new(move |_| {
            drop(remains);
            drop(session);
        }));
        Ok(closed)
    }

    fn run(&self, number: usize, mut server: Server) -> ProtocolError {
        let mut lane = Some(number).filter(|number| *number < self.lanes.len());
        loop {
            let called = match lane.take() {
                Some(number) => number,
                None => self.wait(),
            };
            if let Err(error) = server.serve(self, called) {
                return error;
            }
        }
    }

    /// Waits for a call.
    fn wait(&self) -> usize {
        let mut state = self.state();
        state.spare += 1;
        loop {
            if let Some(number) = state.calls.pop_front() {
                state.spare -= 1;
                return number;
            }
            let Some(errand) = state.errands.pop_front() else {
                state = self.called.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.spare -= 1;
            drop(state);
            session::enter();
            errand(&self.volume);
            state = self.state();
            state.spare += 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The other process broke the boundary's rules.
pub(crate) fn broken(error: ProtocolError) -> ! {
    sys::say(format_args!("{error}; ending the session"));
    sys::end(ExitKind::Protocol.code())
}
