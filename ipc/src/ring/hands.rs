//! Who serves a lane in the worker. A lane has no thread of its own: any thread may take its requests, and any system call
//! that a request leads to may hang. All of this is decided under the lane's lock, which is taken for each request anyway.
//!
//! A thread *joins* a lane when somebody calls it, and *leaves* when it is not needed. Of those that have joined, one is the
//! lane's *keeper*: the one that took the last request, or that waits for the next. The rules:
//!
//! 1. Who takes a request becomes the keeper, unless another one waits: then that one stays it.
//! 2. Who finds nothing to take becomes the keeper and waits, unless another one waits already: then it leaves.
//! 3. Who comes back from a request, is not the keeper and one too many, leaves.
//!
//! So at most one thread waits, and only the keeper does; it alone writes the word in shared memory that says whether the
//! worker sleeps. A keeper never leaves. Thus a lane always has a keeper: one that waits, or one that is in a request.
//! If that request hangs, the watching thread sees a keeper that does not wait and a count of requests that stands still.
//! It calls a spare thread, which joins and by rule 1 or 2 becomes the keeper; nothing is taken from the one that
//! hangs, for it owns nothing but its request. When its call returns it answers that request, as every thread does, under the
//! lock, and by rule 3 it leaves. If it was not hung but slow, both find each other by the same rules, and one leaves.
//!
//! A thread that was called has not joined yet; meanwhile nobody else is called for the same reason.

/// A lane's threads.
#[derive(Debug)]
pub(super) struct Hands {
    keeper: u16,
    /// The keeper waits for a request, or is about to.
    waits: bool,
    /// Threads that have joined.
    present: u16,
    /// More than these leave when they come back, but for the keeper.
    wanted: u16,
    /// Threads that were called and have not joined.
    coming: u16,
}

/// What a thread is to do that found nothing.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum Idle {
    /// Wait.
    Wait,
    /// Serve another lane.
    Leave,
}

impl Hands {
    /// Nobody has joined.
    pub(super) const fn new() -> Self {
        Self {
            keeper: u16::MAX,
            waits: false,
            present: 0,
            wanted: 1,
            coming: 0,
        }
    }

    /// A thread was called.
    pub(super) const fn call(&mut self) {
        self.coming += 1;
    }

    /// A thread that was called is here.
    pub(super) const fn join(&mut self) {
        self.coming = self.coming.saturating_sub(1);
        self.present += 1;
    }

    /// Whether `hand`, back from a request, is to leave; it has left then.
    pub(super) const fn leaves(&mut self, hand: u16) -> bool {
        let leaves = self.keeper != hand && self.present > self.wanted;
        if leaves {
            self.present -= 1;
        }
        leaves
    }

    /// Whether `hand` serves the lane for all others, who hang or are not there.
    pub(super) const fn is_alone(&self, hand: u16) -> bool {
        self.keeper == hand && self.wanted == 1
    }

    /// `hand` takes a request.
    pub(super) const fn takes(&mut self, hand: u16) {
        if !self.waits || self.keeper == hand {
            self.keeper = hand;
            self.waits = false;
        }
    }

    /// `hand` found nothing.
    pub(super) const fn finds_nothing(&mut self, hand: u16) -> Idle {
        if self.waits && self.keeper != hand {
            self.present = self.present.saturating_sub(1);
            return Idle::Leave;
        }
        self.keeper = hand;
        self.waits = true;
        Idle::Wait
    }

    /// Whether the keeper waits for a request.
    pub(super) const fn is_waiting(&self) -> bool {
        self.waits
    }

    /// Threads that have joined or will.
    pub(super) const fn expected(&self) -> u16 {
        self.present + self.coming
    }

    /// Whether some were called and have not joined.
    pub(super) const fn are_coming(&self) -> bool {
        self.coming > 0
    }

    /// How many threads may serve the lane at once, besides those whose requests hang. At least one.
    pub(super) const fn want(&mut self, wanted: u16) {
        self.wanted = wanted;
    }

    pub(super) const fn wanted(&self) -> u16 {
        self.wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept_by(hand: u16) -> Hands {
        let mut hands = Hands::new();
        hands.call();
        hands.join();
        assert_eq!(hands.finds_nothing(hand), Idle::Wait);
        hands
    }

    #[test]
    fn a_thread_that_hangs_loses_the_lane_and_leaves_when_it_comes_back() {
        let mut hands = kept_by(1);
        hands.takes(1);
        assert!(!hands.is_waiting());
        hands.call();
        assert!(hands.are_coming());
        hands.join();
        assert_eq!(hands.finds_nothing(2), Idle::Wait);
        assert!(hands.is_waiting() && !hands.are_coming());
        hands.takes(2);
        assert!(hands.leaves(1), "it is not the keeper");
        assert!(!hands.leaves(2));
        assert_eq!((hands.finds_nothing(2), hands.expected()), (Idle::Wait, 1));
    }

    #[test]
    fn a_spare_that_comes_too_late_leaves() {
        let mut hands = kept_by(1);
        hands.takes(1);
        hands.call();
        assert_eq!(hands.finds_nothing(1), Idle::Wait, "it was slow");
        hands.join();
        assert_eq!((hands.finds_nothing(2), hands.expected()), (Idle::Leave, 1));
    }

    #[test]
    fn who_waits_stays_the_keeper_whoever_takes_what_comes() {
        let mut hands = kept_by(1);
        hands.call();
        hands.join();
        hands.takes(2);
        assert!(hands.is_waiting());
        assert_eq!(hands.finds_nothing(1), Idle::Wait, "it alone may wait");
        assert!(hands.leaves(2));
    }

    #[test]
    fn as_many_as_are_wanted_stay() {
        let mut hands = kept_by(1);
        hands.want(2);
        hands.takes(1);
        hands.call();
        hands.join();
        hands.takes(2);
        assert!(!hands.leaves(1), "two are wanted");
        hands.want(1);
        assert!(hands.leaves(1));
    }

    /// Any order of steps of a few threads: one waits at most, and there is always a keeper that has joined.
    #[test]
    fn in_any_order_there_is_one_keeper() {
        #[derive(Clone, Copy, PartialEq)]
        enum At {
            Away,
            Called,
            Lane,
            Request,
            Waits,
        }
        let mut seed = 1u64;
        let mut random = move |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let mut hands = kept_by(0);
        let mut threads = [At::Waits, At::Away, At::Away, At::Away];
        for _ in 0..200_000 {
            let hand = random(4) as u16;
            let at = &mut threads[usize::from(hand)];
            *at = match *at {
                At::Away => {
                    hands.call();
                    At::Called
                }
                At::Called => {
                    hands.join();
                    At::Lane
                }
                At::Request if hands.leaves(hand) => At::Away,
                At::Request | At::Lane | At::Waits => match random(2) {
                    0 => {
                        hands.takes(hand);
                        At::Request
                    }
                    _ => match hands.finds_nothing(hand) {
                        Idle::Wait => At::Waits,
                        Idle::Leave => At::Away,
                    },
                },
            };
            hands.want(1 + random(3) as u16);
            let waiting: Vec<_> = (0..4).filter(|hand| threads[*hand] == At::Waits).collect();
            let keeper = usize::from(hands.keeper);
            assert!(waiting.len() <= 1);
            assert_eq!(hands.waits, waiting == [keeper]);
            assert!(matches!(threads[keeper], At::Waits | At::Request));
            let here = threads
                .iter()
                .filter(|at| !matches!(at, At::Away | At::Called))
                .count();
            assert_eq!(usize::from(hands.present), here);
        }
    }
}
