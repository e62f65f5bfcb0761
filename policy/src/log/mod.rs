//! The log of either process: lines for people on descriptor 2. Nobody waits for whoever reads them. A line goes to a buffer,
//! and a thread of its own writes it (`write_lines`): it may wait for ever, for a full pipe, a stopped terminal or a file
//! system that hangs. Lines that find the buffer full are dropped, and how many is said once there is room.
//!
//! Before the thread runs, whoever says a line writes it, if it can be written at once.

mod own;
mod queue;
mod socket;

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use queue::Lines;

use crate::gather::Gathered;

pub use own::own;
pub use socket::system;

/// How long the end of the process waits for the next line to be written.
const LAST_LINE: Duration = Duration::from_millis(500);
/// How long it waits for all of them.
const LAST_LINES: Duration = Duration::from_secs(2);
/// Pauses between attempts where a descriptor that does not block is full.
const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];
/// How often a process that ends tries to get at the log: the thread that it interrupted may hold it.
const ATTEMPTS: u32 = 1000;

/// Room for what the thread does.
const STACK: usize = 64 << 10;

static STATE: Mutex<State> = Mutex::new(State {
    lines: Lines::new(),
    dropped: 0,
    process: "airlockfs",
    writer: Writer::Absent,
});
/// There is something to write.
static MORE: Condvar = Condvar::new();
/// A line was written.
static WRITTEN: Condvar = Condvar::new();
/// Nothing but the time.
static PAUSE: Condvar = Condvar::new();

struct State {
    /// Those that wait.
    lines: Lines,
    /// How many found no room.
    dropped: u64,
    /// Whose log it is.
    process: &'static str,
    writer: Writer,
}

/// The thread that writes.
#[derive(Clone, Copy)]
enum Writer {
    /// It is not there yet.
    Absent,
    /// It waits for lines.
    Idle,
    /// It writes, and last got something done at this time.
    Busy(Instant),
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on a panic in any thread is told and ends the process, `process` by name: without that thread requests would wait
/// for ever.
pub fn start(process: &'static str) {
    state().process = process;
    std::panic::set_hook(Box::new(move |panic| {
        last_words(format!("{process}: internal error: {panic}").as_bytes());
        end(crate::ExitKind::Software.code());
    }));
}

/// Says a line, without its newline. Never waits.
pub fn say(line: fmt::Arguments<'_>) {
    state().push(line.to_string().as_bytes());
}

/// Ends the process, all threads with it, once what was said is written or nobody reads it. What Rust and the C library do
/// before takes system calls that the filters do not let through.
#[expect(unsafe_code, reason = "_exit(2)")]
pub fn end(code: u8) -> ! {
    finish();
    // SAFETY: ends the process.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Waits until all lines are written, for as long as one after the other is.
pub fn finish() {
    let Some(mut state) = at_last() else { return };
    let over = Instant::now() + LAST_LINES;
    loop {
        let until = match state.writer {
            Writer::Absent => return state.write_now(),
            Writer::Idle if state.lines.is_empty() => return,
            Writer::Idle => over,
            Writer::Busy(since) => over.min(since + LAST_LINE),
        };
        let Some(left) = until.checked_duration_since(Instant::now()) else {
            return;
        };
        let waited = WRITTEN.wait_timeout(state, left);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Says a line when the process is about to end, from wherever: in a signal handler, say, that interrupted this module.
pub(crate) fn last_words(line: &[u8]) {
    if let Some(mut state) = at_last() {
        state.push(line);
    }
}

fn at_last() -> Option<MutexGuard<'static, State>> {
    for _ in 0..ATTEMPTS {
        match STATE.try_lock() {
            Ok(state) => return Some(state),
            Err(TryLockError::Poisoned(state)) => return Some(state.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
    None
}

/// Starts the thread that writes the lines, once for a process, when it has given up all but system calls.
pub(crate) fn start_writer() -> io::Result<()> {
    let anywhere = Gathered::here();
    let thread = std::thread::Builder::new()
        .name("log".to_owned())
        .stack_size(STACK);
    let started = thread.spawn(move || {
        anywhere.spread();
        write_lines();
    });
    anywhere.spread();
    started.map(drop)
}

/// Waits until that thread has done all that a new one does: it can be filtered.
pub(crate) fn await_writer() {
    let absent = |state: &mut State| matches!(state.writer, Writer::Absent);
    drop(WRITTEN.wait_while(state(), absent));
}

fn write_lines() {
    let mut batch = Lines::new();
    let mut lost = 0;
    batch.make_room();
    let mut state = state();
    state.lines.make_room();
    loop {
        state.writer = Writer::Idle;
        WRITTEN.notify_all();
        state = MORE
            .wait_while(state, |state| state.lines.is_empty() && state.dropped == 0)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut batch, &mut state.lines);
        // All of them came after those of the batch.
        lost += std::mem::take(&mut state.dropped);
        state.writer = Writer::Busy(Instant::now());
        let process = state.process;
        drop(state);
        for line in batch.iter() {
            lost += u64::from(!write_whole(line));
        }
        batch.clear();
        if lost > 0 && write_whole(told(process, lost).as_bytes()) {
            lost = 0;
        }
        state = self::state();
    }
}

fn told(process: &str, lost: u64) -> String {
    format!("{process}: WARN: {lost} lines of this log were dropped: nobody read it, or it was full\n")
}

/// Writes a line, however long that takes. False: it cannot be written.
fn write_whole(mut line: &[u8]) -> bool {
    let [mut pause, longest] = PAUSES;
    while !line.is_empty() {
        match write(line) {
            Ok(written) => {
                line = line.get(written..).unwrap_or_default();
                state().writer = Writer::Busy(Instant::now());
                WRITTEN.notify_all();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                drop(PAUSE.wait_timeout(state(), pause));
                pause = longest.min(pause * 2);
            }
            Err(_) => return false,
        }
    }
    true
}

/// One write(2).
fn write(bytes: &[u8]) -> io::Result<usize> {
    match nix::unistd::write(io::stderr().as_fd(), bytes)? {
        0 => Err(ErrorKind::WriteZero.into()),
        written => Ok(written),
    }
}

impl State {
    fn push(&mut self, line: &[u8]) {
        if !self.lines.push(line) {
            self.dropped += 1;
        }
        match self.writer {
            Writer::Absent => self.write_now(),
            Writer::Idle | Writer::Busy(_) => MORE.notify_one(),
        }
    }

    /// Writes what can be written at once; the rest waits for the thread.
    fn write_now(&mut self) {
        while let Some(line) = self.lines.first() {
            if !writable() {
                return;
            }
            match write(line) {
                // A terminal takes a part: the rest of that line is not worth waiting for.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.dropped += 1,
            }
            self.lines.remove_first();
        }
    }
}

/// Whether a line can be written now, also where the descriptor is the launcher's and may block (poll(2)).
fn writable() -> bool {
    let stderr = io::stderr();
    let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    // What is no longer there is found out by the write.
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
