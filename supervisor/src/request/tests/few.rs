//! Waking as few as possible: the guest's kicks for FORGETs, and its sleep between answers.

use airlockfs_ipc::ring::Hand;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::*;

const INTERRUPT: u32 = 36;

impl Rig {
    /// One on the high-priority queue.
    fn high_priority() -> Self {
        let mut rig = Self::running(true);
        rig.group.queues[0].renumber(HIPRIO);
        rig
    }

    fn mkdir(&mut self, unique: u64) {
        const MKDIR: u32 = 9;
        self.send(MKDIR, unique, b"\0\0\0\0\0\0\0\0name\0", 128);
    }

    fn forget(&mut self) {
        self.send(FORGET, 0, &7u64.to_ne_bytes(), 0);
    }

    /// How many elements the driver has seen when it wants to be interrupted for the next (`used_event`).
    fn wait_from(&self, used: u16) {
        let place = GuestAddress(AVAIL + 4 + 2 * u64::from(SIZE));
        self.memory.memory().write_obj(used, place).unwrap();
    }

    /// A guest that was found by looking, on another CPU than both processes.
    pub(super) fn apart() -> Self {
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let cpu = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap());
        let mut one = CpuSet::new();
        one.set(cpu.unwrap()).unwrap();
        sched_setaffinity(Pid::from_raw(0), &one).unwrap();
        let mut rig = Self::running(true);
        rig.send(LOOKUP, 2, b"name\0", 128);
        rig.run();
        rig.worker.wait(&mut Hand::new(0, Duration::ZERO));
        rig.serve(|_| entry());
        rig.run_one();
        assert!(rig.group.lane.ring.shares_cpu());
        rig.group.schedule.apart = true;
        rig
    }
}

#[test]
fn forgets_that_follow_one_another_kick_now_and_then_and_are_looked_for() {
    let mut rig = Rig::high_priority();
    assert_eq!(rig.run(), None);
    assert_eq!(rig.kick_asked_for(), rig.sent, "the first one kicks");
    for _ in 0..3 {
        rig.forget();
        rig.forget();
        assert_eq!(rig.run(), Some(FORGETS_LIE.0));
        assert_eq!(rig.kick_asked_for(), rig.sent + FORGETS_LIE.1);
    }
    assert_eq!(rig.serve(|_| Reply::Done), 3, "a message for each batch");
    assert_eq!(rig.run(), None, "none came meanwhile");
    assert_eq!(rig.kick_asked_for(), rig.sent);
}

#[test]
fn what_somebody_may_wait_for_is_not_left_lying() {
    let mut rig = Rig::high_priority();
    rig.forget();
    rig.send(INTERRUPT, 0, &9u64.to_ne_bytes(), 0);
    assert_eq!(rig.run(), None);
    assert_eq!(rig.kick_asked_for(), rig.sent);
    rig.group.queues[0].renumber(1);
    rig.forget();
    assert_eq!(rig.run(), None, "requests may follow on this ring");
    assert_eq!(rig.kick_asked_for(), rig.sent);
}

fn enough(group: &Group, sleeps: bool, few: bool, given: usize) -> bool {
    let answered = group.queues[0].answered();
    group
        .schedule
        .enough(answered, given, (sleeps, few), &group.lane.ring)
}

#[test]
fn a_guest_that_falls_asleep_gets_its_first_answer_before_the_worker_has_the_rest() {
    let mut rig = Rig::apart();
    let group = &mut rig.group;
    for (quick, sleeps, few, most) in [
        (true, true, false, 1),
        (true, false, true, AT_A_TIME),
        (false, true, true, 1),
        (false, true, false, usize::MAX),
        (false, false, true, usize::MAX),
    ] {
        group.schedule.quick = quick;
        for given in 0..20 {
            assert_eq!(
                enough(group, sleeps, few, given),
                given >= most,
                "{quick} {sleeps} {few}"
            );
        }
    }
    group.schedule.quick = true;
    group.schedule.turns = false;
    assert!(
        !enough(group, true, true, 1),
        "the worker waits for something itself"
    );
    group.put_used(Head::default(), 16);
    assert!(enough(group, true, false, 0), "an answer of this process");
    assert!(!enough(group, false, false, 0), "the guest is awake");
}

#[test]
fn a_worker_that_answers_nothing_in_its_turn_gets_the_rest() {
    let mut rig = Rig::apart();
    for unique in 10..26 {
        rig.send(LOOKUP, unique, b"name\0", 128);
    }
    rig.wait_from(rig.seen);
    rig.run();
    assert_eq!(rig.serve(|_| entry()), 16);
    assert_eq!(rig.run_all().len(), 16);
}

#[test]
fn a_guest_on_the_same_cpu_has_its_requests_go_to_the_worker_at_once() {
    let mut rig = Rig::apart();
    rig.group.schedule.apart = false;
    rig.wait_from(rig.seen);
    for unique in 0..4 {
        rig.mkdir(unique);
    }
    for unique in 10..20 {
        rig.send(LOOKUP, unique, b"name\0", 128);
    }
    rig.run();
    assert_eq!(rig.serve(|_| entry()), 14);
}
