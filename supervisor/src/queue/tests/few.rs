//! Waking as few as possible: the guest's kicks for FORGETs, and its sleep between answers.

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
        rig.queue.number = HIPRIO;
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
    fn apart() -> Self {
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let cpu = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap());
        let mut one = CpuSet::new();
        one.set(cpu.unwrap()).unwrap();
        sched_setaffinity(Pid::from_raw(0), &one).unwrap();
        let mut rig = Self::running(true);
        rig.send(LOOKUP, 2, b"name\0", 128);
        rig.run();
        rig.worker.wait();
        rig.serve(|_| entry());
        rig.run_one();
        assert!(rig.queue.lane.shares_cpu());
        rig.queue.apart = true;
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
    rig.queue.number = 1;
    rig.forget();
    assert_eq!(rig.run(), None, "requests may follow on this ring");
    assert_eq!(rig.kick_asked_for(), rig.sent);
}

#[test]
fn a_guest_that_falls_asleep_gets_its_first_quick_answer_before_the_worker_has_the_rest() {
    let mut rig = Rig::apart();
    for unique in 10..26 {
        rig.send(LOOKUP, unique, b"name\0", 128);
    }
    rig.wait_from(rig.seen);
    rig.run();
    assert_eq!(rig.serve(|_| entry()), 1);
    // It is awake then, and gets them by and by.
    assert_eq!(rig.run_all().len(), 1);
    assert_eq!(rig.serve(|_| entry()), AT_A_TIME);
    assert_eq!(rig.run_all().len(), AT_A_TIME);
    assert_eq!(rig.serve(|_| entry()), 15 - AT_A_TIME);
    assert_eq!(rig.run_all().len(), 15 - AT_A_TIME);
}

#[test]
fn of_slow_requests_the_first_of_a_few_goes_ahead_and_many_go_together() {
    let mut rig = Rig::apart();
    for (count, first) in [(4, 1), (AT_A_TIME + 1, AT_A_TIME + 1)] {
        rig.wait_from(rig.seen);
        for unique in 0..count {
            rig.mkdir(unique as u64);
        }
        rig.run();
        assert_eq!(rig.serve(|_| entry()), first);
        assert_eq!(rig.run_all().len(), first);
        assert_eq!(rig.serve(|_| entry()), count - first);
        assert_eq!(rig.run_all().len(), count - first);
    }
}

#[test]
fn a_guest_on_the_same_cpu_has_its_requests_go_to_the_worker_at_once() {
    let mut rig = Rig::apart();
    rig.queue.apart = false;
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
