//! Which session of the guest a thread works for. A call that hangs may return when the session is over that asked for
//! it: what it brings must not be entered in the tables of the next one, where nobody would ever let go of it.
//!
//! The number is raised before the tables are emptied, and compared under a table's lock: so whatever is entered is there to be
//! taken out, or is refused.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

static CURRENT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static ENTERED: Cell<u64> = const { Cell::new(0) };
}

/// This thread begins to serve a request.
pub(crate) fn enter() {
    ENTERED.set(CURRENT.load(SeqCst));
}

/// The session is over. Called before its tables are emptied.
pub(crate) fn end() {
    CURRENT.fetch_add(1, SeqCst);
}

/// Whether the session that this thread's request belongs to is over. Asked under the lock of what it would enter.
pub(crate) fn is_over() -> bool {
    ENTERED.get() != CURRENT.load(SeqCst)
}
