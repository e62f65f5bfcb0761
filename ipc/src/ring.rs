//! The shared-memory ring.

/// Most lanes a ring can have: hiprio and 8 request queues.
pub const MAX_LANES: u16 = 9;
