//! A bounded, adaptive look before sleeping, as KVM's halt polling does it: the window grows while events come soon
//! after falling asleep, shrinks when they come late, and is zero for one that idles.

use std::time::{Duration, Instant};

use crate::ring;

/// First window tried, and the smallest one that is kept.
const START: Duration = Duration::from_micros(4);
/// A pause this long between two looks means that another thread wanted the CPU.
const PREEMPTED: Duration = Duration::from_micros(40);
/// Sleeps to sit out after that.
const SIT_OUT: u32 = 64;

/// One thread's looking before it sleeps.
#[derive(Debug)]
pub struct AdaptivePoll {
    limit: Duration,
    window: Duration,
    sit_out: u32,
}

impl AdaptivePoll {
    /// `limit` is the longest look; zero never looks.
    pub const fn new(limit: Duration) -> Self {
        Self {
            limit,
            window: Duration::ZERO,
            sit_out: 0,
        }
    }

    /// Looks with `ready` until it is true or the window is over; true if it was. `peer_cpu` is where the side that
    /// would make it ready last ran: looking on that very CPU only keeps it from running.
    pub fn look(&mut self, peer_cpu: u32, mut ready: impl FnMut() -> bool) -> bool {
        if self.window.is_zero() || peer_cpu == ring_cpu() {
            return ready();
        }
        let begin = Instant::now();
        let mut last = Duration::ZERO;
        loop {
            for _ in 0..8 {
                if ready() {
                    return true;
                }
                std::hint::spin_loop();
            }
            let now = begin.elapsed();
            if now.saturating_sub(last) > PREEMPTED {
                self.window = Duration::ZERO;
                self.sit_out = SIT_OUT;
                return ready();
            }
            if now > self.window {
                return false;
            }
            last = now;
        }
    }

    /// Tells how long the sleep after a look in vain was.
    pub fn slept(&mut self, time: Duration) {
        if self.sit_out > 0 {
            self.sit_out -= 1;
        } else if time > self.limit {
            self.window = if self.window > START {
                self.window / 2
            } else {
                Duration::ZERO
            };
        } else if time > self.window {
            self.window = (self.window * 2).max(START).min(self.limit);
        }
    }
}

fn ring_cpu() -> u32 {
    ring::current_cpu()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_while_events_come_soon_and_closes_when_idle() {
        let mut poll = AdaptivePoll::new(Duration::from_micros(50));
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
