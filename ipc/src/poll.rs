//! A bounded, adaptive look before sleeping, as KVM's halt polling does it: the window grows while events come soon
//! after falling asleep, shrinks when they come late, and is zero for one that idles.

use std::time::{Duration, Instant};

use crate::ring;

/// First window tried, and the smallest one that is kept.
const START: Duration = Duration::from_micros(4);
/// A pause this long between two looks means that another thread wanted the CPU.
const PREEMPTED: Duration = Duration::from_micros(40);
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
        }
    }

    /// Looks with `ready` until it is true or the window is over; true if it was. `peer_cpu` is where the side that
    /// would make it ready last ran, 0 if that is not known: looking on that very CPU only keeps it from running.
    pub fn look(&mut self, peer_cpu: u32, mut ready: impl FnMut() -> bool) -> bool {
        self.looked = Duration::ZERO;
        if self.window.is_zero() || (peer_cpu != 0 && peer_cpu == ring::current_cpu()) {
            return ready();
        }
        let begin = Instant::now();
        let mut last = Duration::ZERO;
        loop {
            for _ in 0..8 {
                if ready() {
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
        }
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
