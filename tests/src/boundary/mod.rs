//! The boundary between the two processes, as a process uses it that breaks the rules.
//!
//! [`raw`] is a lane's memory. [`puppet`] is a worker that a test controls. The real `airlockfsd`
//! starts it, confines itself and serves; the test writes every byte that it gets from "its
//! worker".

pub mod puppet;
pub mod raw;

/// Numbers that look random and are the same each time (SplitMix64).
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below a limit.
    pub const fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
