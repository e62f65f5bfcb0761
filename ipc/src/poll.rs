//! A bounded, adaptive look before sleeping, as KVM's halt polling does it: the window grows while events come soon
//! after falling asleep, shrinks when they come late, and is zero for one that idles. It gives way: whoever else wants the CPU
//! may be the one whose work is looked for.

use std::time::{Duration, Instant};

use crate::ring;

/// First window tried, and the smallest one that is kept.
const START: Duration = Duration::from_micros(4);
/// A pause this long between two looks means that somebody has the CPU for long, whose turn is better ended by waking this
/// thread.
const PREEMPTED: Duration = Duration::from_micros(40);
/// How long it looks before it gives way.
const GIVE_WAY_AFTER: Duration = Duration::from_micros(3);
/// A sched_yield(2) that took longer let another thread run.
const OTHERS_RAN: Duration = Duration::from_nanos(1500);
/// How often it gives way to one that works for it on this CPU, while others run.
const TURNS: u32 = 4;
/// Looks in vain, each followed by an event as soon as this thread slept, after which it is plain that the event needs
/// this very CPU.
const IN_VAIN: u32 = 3;
/// Sleeps to sit out then: at first, and at most. Doubles as long as no look helps.
const SIT_OUT: (u32, u32) = (64, 8192);

/// One thread's looking before it sleeps.
#[derive(Debug)]
pub struct AdaptivePoll {
    limit: Duration,
    window: Duration,
    /// How long it looked in vain before the sleep that is about to begin.
    looked: Duration,
    in_vain: u32,
    sit_out: u32,
    next_sit_out: u32,
    /// Another thread ran on this CPU during the last look.
    gave_way: bool,
}

impl AdaptivePoll {
    /// `limit` is the longest look; zero never looks.
    pub const fn new(limit: Duration) -> Self {
        Self {
            limit,
            window: Duration::ZERO,
            looked: Duration::ZERO,
            in_vain: 0,
            sit_out: 0,
            next_sit_out: SIT_OUT.0,
            gave_way: false,
        }
    }

    /// Another thread ran on this CPU during the last look.
    pub const fn gave_way(&self) -> bool {
        self.gave_way
    }

    /// Looks with `ready` until it is true or the window is over; true if it was. `peer_cpu` is where the side that
    /// would make it ready last ran, 0 if that is not known: on this very CPU it has its turns instead of being looked for.
    pub fn look(&mut self, peer_cpu: u32, mut ready: impl FnMut() -> bool) -> bool {
        self.looked = Duration::ZERO;
        // Where others wanted the CPU the last time they do now.
        let mut give_way_at = match std::mem::take(&mut self.gave_way) {
            true => Duration::ZERO,
            false => GIVE_WAY_AFTER,
        };
        if self.window.is_zero() {
            return ready();
        }
        if peer_cpu != 0 && peer_cpu == ring::current_cpu() {
            return ready() || self.take_turns(ready);
        }
        let begin = Instant::now();
        let mut last = Duration::ZERO;
        loop {
            for _ in 0..8 {
                if ready() {
                    // Others may take the CPU without being asked to.
                    self.gave_way |= begin.elapsed().saturating_sub(last) > OTHERS_RAN;
                    self.in_vain = 0;
                    self.next_sit_out = SIT_OUT.0;
                    return true;
                }
                std::hint::spin_loop();
            }
            let now = begin.elapsed();
            if now.saturating_sub(last) > PREEMPTED {
                self.pause();
                return ready();
            }
            if now > self.window {
                self.looked = now;
                return false;
            }
            last = now;
            if now > give_way_at {
                let others = self.give_way();
                give_way_at = now + others + GIVE_WAY_AFTER;
            }
        }
    }

    /// Has the peer, on this CPU, run until it is `ready`: that saves both of them from falling asleep and being woken.
    fn take_turns(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        for _ in 0..TURNS {
            let others = self.give_way();
            if others > PREEMPTED {
                self.pause();
                return ready();
            }
            if ready() {
                return true;
            }
            if others < OTHERS_RAN {
                // It waits for something itself.
                return false;
            }
        }
        false
    }

    /// How long others ran.
    fn give_way(&mut self) -> Duration {
        let begin = Instant::now();
        std::thread::yield_now();
        let others = begin.elapsed();
        self.gave_way |= others > OTHERS_RAN;
        others
    }

    /// Tells how long the sleep after a look in vain was.
    pub fn slept(&mut self, time: Duration) {
        let looked = std::mem::take(&mut self.looked);
        if self.sit_out > 0 {
            self.sit_out -= 1;
        } else if looked + time > self.limit {
            self.window = if self.window > START {
                self.window / 2
            } else {
                Duration::ZERO
            };
        } else if looked > time {
            // It came soon, but not while this thread looked for longer than that.
            self.in_vain += 1;
            if self.in_vain >= IN_VAIN {
                self.pause();
            } else {
                self.grow();
            }
        } else {
            self.grow();
        }
    }

    fn grow(&mut self) {
        self.window = (self.window * 2).max(START).min(self.limit);
    }

    fn pause(&mut self) {
        self.window = Duration::ZERO;
        self.in_vain = 0;
        self.sit_out = self.next_sit_out;
        self.next_sit_out = (self.next_sit_out * 2).min(SIT_OUT.1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicBool, Ordering::Acquire, Ordering::Release},
    };

    use nix::{
        sched::{CpuSet, sched_getcpu, sched_setaffinity},
        unistd::Pid,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);

    #[test]
    fn the_window_grows_while_events_come_soon_and_closes_when_idle() {
        let mut poll = AdaptivePoll::new(LIMIT);
        for _ in 0..10 {
            poll.slept(Duration::from_micros(45));
        }
        assert!(poll.window >= Duration::from_micros(45) && poll.window <= poll.limit);
        for _ in 0..10 {
            poll.slept(Duration::from_millis(10));
        }
        assert_eq!(poll.window, Duration::ZERO);
    }

    #[test]
    fn an_event_that_comes_only_once_the_thread_sleeps_is_not_looked_for() {
        let mut poll = AdaptivePoll::new(Duration::from_secs(10));
        let mut looks = 0;
        for _ in 0..SIT_OUT.0 {
            // Whatever the window is, it ends in vain; then the event comes at once.
            if poll.window > Duration::ZERO {
                looks += 1;
                poll.window = Duration::from_nanos(1);
            }
            assert!(!poll.look(0, || false));
            poll.slept(Duration::ZERO);
        }
        assert_eq!(looks, IN_VAIN);
        assert_eq!(poll.window, Duration::ZERO);
    }

    /// Runs `look` on a CPU that another thread needs, several times, for what is looked for.
    fn beside_one_that_works_here(
        look: impl FnOnce(&mut AdaptivePoll, &AtomicBool) -> bool + Send,
    ) -> (bool, AdaptivePoll) {
        let mut one = CpuSet::new();
        one.set(sched_getcpu().unwrap()).unwrap();
        let mut poll = AdaptivePoll::new(Duration::from_secs(10));
        poll.window = poll.limit;
        let mut found = false;
        let (here, done) = (Barrier::new(2), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sched_setaffinity(Pid::from_raw(0), &one).unwrap();
                here.wait();
                for _ in 0..3 {
                    let turn = Instant::now();
                    while turn.elapsed() < 3 * OTHERS_RAN {}
                    std::thread::yield_now();
                }
                done.store(true, Release);
            });
            scope.spawn(|| {
                sched_setaffinity(Pid::from_raw(0), &one).unwrap();
                here.wait();
                found = look(&mut poll, &done);
            });
        });
        (found, poll)
    }

    #[test]
    fn whoever_needs_this_cpu_gets_it_while_it_looks() {
        for peer_is_here in [false, true] {
            let gave_way = |_: &i32| {
                let (found, poll) = beside_one_that_works_here(|poll, done| {
                    let peer = if peer_is_here { ring::current_cpu() } else { 0 };
                    poll.look(peer, || done.load(Acquire))
                });
                found && poll.gave_way() && poll.sit_out == 0
            };
            // Once in a while somebody else takes the CPU from both, for a time.
            let nearly_always = (0..50).any(|_| (0..200).filter(gave_way).count() > 100);
            assert!(nearly_always, "peer here: {peer_is_here}");
        }
    }

    #[test]
    fn without_a_limit_it_never_looks_twice() {
        let mut poll = AdaptivePoll::new(Duration::ZERO);
        poll.slept(Duration::ZERO);
        let mut looks = 0;
        poll.look(0, || {
            looks += 1;
            false
        });
        assert_eq!(looks, 1);
    }
}
