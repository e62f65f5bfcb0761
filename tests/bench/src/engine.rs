//! Keeps a number of requests in flight on each queue, and tells what came of it.

use std::collections::VecDeque;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use zerocopy::IntoBytes;

use super::actor::{Actor, Reply, Request, Step};
use super::wait::{self, Alarm, Blocking, Wait, Watchdog};
use airlockfs_tests::fuse::abi::{FORGET, ForgetIn, IN_HEADER, InHeader, OUT_HEADER};
use airlockfs_tests::placement::Placement;
use airlockfs_tests::procfs::thread_cpu;
use airlockfs_tests::vmm::queue::{Queue, Segment};
use airlockfs_tests::vmm::{HIPRIO, Vmm};

/// Bytes of a slot before its data: the request at its beginning, the reply's header in its second half.
const HEAD: usize = 4096;
/// Forgets in flight.
const FORGETS: usize = 64;
/// How long one measurement may take beyond its time before the daemon counts as hung, in seconds.
const PATIENCE: u64 = 60;

/// A slot's buffers in guest memory: made once, used by one request after the other.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    head: u64,
    /// Data of a WRITE, or the reply behind its header.
    data: u64,
}

impl Slot {
    /// Takes guest memory for a slot with `room` bytes of data, and touches it.
    pub fn new(vmm: &Vmm, room: usize) -> Result<Self> {
        let memory = vmm.memory();
        let slot = Self {
            head: memory.alloc(HEAD, 4096)?,
            data: memory.alloc(room, 4096)?,
        };
        memory.write(slot.head, &[0; HEAD]);
        memory.write(slot.data, &vec![0x5a; room]);
        Ok(slot)
    }
}

/// A connection as the engine uses it.
#[derive(Debug)]
pub struct Engine {
    vmm: Arc<Vmm>,
    slots: Vec<Slot>,
    forgets: Mutex<Forgets>,
    wait: Wait,
    placement: Placement,
}

/// What came of a measurement.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// From the first request to the last reply.
    pub wall: Duration,
    /// Operations done.
    pub operations: u64,
    /// What they came to, in units of the case.
    pub units: u64,
    /// How long each operation took, in nanoseconds.
    pub latencies: Vec<u32>,
    /// CPU time of the front end's threads.
    pub front_end: Duration,
}

impl Engine {
    /// On a connection after INIT, whose queues are idle: `depth` slots with room for `room` bytes each.
    pub fn new(vmm: &Arc<Vmm>, depth: usize, room: usize, wait: Wait, placement: Placement) -> Result<Self> {
        let slots = (0..depth).map(|_| Slot::new(vmm, room));
        Ok(Self {
            vmm: Arc::clone(vmm),
            slots: slots.collect::<Result<_>>()?,
            forgets: Mutex::new(Forgets::new(vmm)?),
            wait,
            placement,
        })
    }

    /// Lets the actors work until the time is up (or until none has more to do), spread over the first `queues` request queues.
    pub fn run(
        &self,
        mut actors: Vec<Box<dyn Actor>>,
        queues: usize,
        time: Option<Duration>,
    ) -> Result<Outcome> {
        ensure!(actors.len() <= self.slots.len(), "more actors than slots");
        let calls: Vec<_> = (0..=queues)
            .map(|queue| self.vmm.queue(queue).call_fd())
            .collect();
        let blocking = Blocking::new(calls.clone())?;
        let patience = time.unwrap_or_default() + Duration::from_secs(PATIENCE);
        let watchdog = Watchdog::new(self.vmm.socket().try_clone()?.into(), calls, patience)?;
        let alarm = watchdog.alarm();

        let share = actors.len().div_ceil(queues);
        let barrier = Barrier::new(actors.len().div_ceil(share));
        let parts: Vec<_> = actors.chunks_mut(share).zip(self.slots.chunks(share)).collect();
        let begin = Instant::now();
        let tallies: Vec<Result<Outcome>> = if let [_] = parts[..] {
            let parts = parts.into_iter();
            parts
                .map(|(actors, slots)| self.run_queue(HIPRIO + 1, actors, slots, time, alarm))
                .collect()
        } else {
            std::thread::scope(|scope| {
                let threads: Vec<_> = parts
                    .into_iter()
                    .enumerate()
                    .map(|(index, (actors, slots))| {
                        let barrier = &barrier;
                        scope.spawn(move || {
                            self.placement.pin_front_end()?;
                            barrier.wait();
                            self.run_queue(HIPRIO + 1 + index, actors, slots, time, alarm)
                        })
                    })
                    .collect();
                let results = threads.into_iter().map(|thread| thread.join().expect("no panic"));
                results.collect()
            })
        };
        let mut outcome = Outcome::default();
        for tally in tallies {
            let tally = tally?;
            outcome.operations += tally.operations;
            outcome.units += tally.units;
            outcome.latencies.extend(tally.latencies);
            outcome.front_end += tally.front_end;
        }
        let cpu = thread_cpu()?;
        let mut forgets = self.forgets.lock().expect("no panic");
        for node in actors.iter_mut().flat_map(|actor| actor.finish()) {
            forgets.post(node, alarm)?;
        }
        forgets.drain(alarm)?;
        outcome.front_end += thread_cpu()? - cpu;
        outcome.wall = begin.elapsed();
        drop(watchdog);
        drop(blocking);
        Ok(outcome)
    }

    fn run_queue(
        &self,
        index: usize,
        actors: &mut [Box<dyn Actor>],
        slots: &[Slot],
        time: Option<Duration>,
        alarm: &Alarm,
    ) -> Result<Outcome> {
        let cpu = thread_cpu()?;
        let mut queue = self.vmm.queue(index);
        let call = queue.call_fd();
        let mut lane = Lane {
            vmm: &self.vmm,
            queue: &mut queue,
            slots,
            steps: vec![(0, Instant::now()); slots.len()],
            request: Request::new(),
            unique: 2 << 40,
        };
        let mut outcome = Outcome::default();
        outcome.latencies.reserve(1 << 16);
        let mut forgets = Vec::new();
        let deadline = time.map(|time| Instant::now() + time);
        let mut in_flight = 0;
        for (at, actor) in actors.iter_mut().enumerate() {
            if actor.more() {
                lane.send(at, actor.as_mut(), 0);
                in_flight += 1;
            }
        }
        lane.queue.publish();
        while in_flight > 0 {
            // What is done now; what comes meanwhile is for the next round, after the device got its new requests.
            let mut now = None;
            for _ in 0..slots.len() {
                let Some(used) = lane.queue.take() else { break };
                let now = *now.get_or_insert_with(Instant::now);
                let at = used.token as usize;
                let actor = actors.get_mut(at).context("a completion of nobody")?;
                let (step, since) = lane.steps[at];
                let reply = Reply::read(
                    self.vmm.memory(),
                    slots[at].head + HEAD as u64 / 2,
                    slots[at].data,
                    used.len,
                    lane.unique + at as u64 * 2,
                )?;
                match actor.reply(step, &reply, &mut forgets)? {
                    Step::Next => lane.send(at, actor.as_mut(), step + 1),
                    Step::Done(units) => {
                        if actor.counts() {
                            outcome.operations += 1;
                            outcome.units += units;
                            let nanos = (now - since).as_nanos();
                            outcome.latencies.push(u32::try_from(nanos).unwrap_or(u32::MAX));
                        }
                        if deadline.is_none_or(|deadline| now < deadline) && actor.more() {
                            lane.steps[at].1 = now;
                            lane.send(at, actor.as_mut(), 0);
                        } else {
                            in_flight -= 1;
                        }
                    }
                }
            }
            if now.is_some() {
                lane.queue.publish();
                if !forgets.is_empty() {
                    let mut hiprio = self.forgets.lock().expect("no panic");
                    for node in forgets.drain(..) {
                        hiprio.post(node, alarm)?;
                    }
                }
            } else {
                wait::completion(lane.queue, &call, self.wait, alarm)?;
            }
        }
        outcome.front_end = thread_cpu()? - cpu;
        Ok(outcome)
    }
}

/// A queue with its slots while a measurement runs.
struct Lane<'a> {
    vmm: &'a Vmm,
    queue: &'a mut Queue,
    slots: &'a [Slot],
    /// The step each slot is at, and when its operation began.
    steps: Vec<(usize, Instant)>,
    request: Request,
    /// The number of slot 0's requests; the others follow. A slot has one request in flight.
    unique: u64,
}

impl Lane<'_> {
    fn send(&mut self, at: usize, actor: &mut dyn Actor, step: usize) {
        let slot = self.slots[at];
        self.steps[at].0 = step;
        actor.request(step, &mut self.request);
        let bytes = self.request.finish(self.unique + at as u64 * 2);
        self.vmm.memory().write(slot.head, bytes);
        let len = bytes.len();
        // As the Linux driver does it: the header, its arguments and the data are buffers of their own.
        let mut segments = [Segment::request(slot.head, IN_HEADER); 5];
        let mut count = 1;
        let mut add = |segment| {
            segments[count] = segment;
            count += 1;
        };
        if len > IN_HEADER {
            add(Segment::request(slot.head + IN_HEADER as u64, len - IN_HEADER));
        }
        if self.request.data_out > 0 {
            add(Segment::request(slot.data, self.request.data_out));
        }
        add(Segment::reply(slot.head + HEAD as u64 / 2, OUT_HEADER));
        if self.request.reply_room > 0 {
            add(Segment::reply(slot.data, self.request.reply_room));
        }
        let added = self.queue.add(&segments[..count], at as u64);
        assert!(added, "a ring larger than the depth");
    }
}

/// FORGETs on their way: one for each node, on the queue for such, as the Linux driver sends them.
#[derive(Debug)]
struct Forgets {
    vmm: Arc<Vmm>,
    free: VecDeque<u64>,
}

impl Forgets {
    fn new(vmm: &Arc<Vmm>) -> Result<Self> {
        let slots = (0..FORGETS).map(|_| vmm.memory().alloc(64, 64));
        Ok(Self {
            vmm: Arc::clone(vmm),
            free: slots.collect::<Result<_>>()?,
        })
    }

    fn post(&mut self, nodeid: u64, alarm: &Alarm) -> Result<()> {
        let mut queue = self.vmm.queue(HIPRIO);
        let slot = loop {
            while let Some(used) = queue.take() {
                self.free.push_back(used.token);
            }
            match self.free.pop_front() {
                Some(slot) => break slot,
                None => {
                    let call = queue.call_fd();
                    wait::completion(&mut queue, &call, Wait::Sleep, alarm)?;
                }
            }
        };
        let body = ForgetIn { nlookup: 1 };
        let header = InHeader {
            len: (IN_HEADER + size_of::<ForgetIn>()) as u32,
            opcode: FORGET,
            unique: 1 << 40,
            nodeid,
            ..InHeader::default()
        };
        let memory = self.vmm.memory();
        memory.write(slot, header.as_bytes());
        memory.write(slot + IN_HEADER as u64, body.as_bytes());
        let added = queue.add(&[Segment::request(slot, header.len as usize)], slot);
        ensure!(added, "no room on the queue for forgets");
        queue.publish();
        Ok(())
    }

    fn drain(&mut self, alarm: &Alarm) -> Result<()> {
        let mut queue = self.vmm.queue(HIPRIO);
        while self.free.len() < FORGETS {
            match queue.take() {
                Some(used) => self.free.push_back(used.token),
                None => {
                    let call = queue.call_fd();
                    wait::completion(&mut queue, &call, Wait::Sleep, alarm)?;
                }
            }
        }
        Ok(())
    }
}
