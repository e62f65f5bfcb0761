//! The attacker is in: the real `airlockfsd` and `airlockfs-worker`, confined as in production and
//! serving a guest, make any system call that they are ordered to make. Each test states what the
//! attacker gets. The run ends with the number of attempts.
//!
//! `cargo test -p airlockfs-tests --test security_breach` runs it, as root. A word behind `--`
//! selects tests.

mod common;
mod denials;
mod kernel_log;
mod late;
mod log;
mod names;
mod pair;
mod policy;
mod road;
mod shipped;
mod supervisor;
mod sweep;
mod sys;
mod tally;
mod worker;

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A name and what it does; it panics to fail.
type Test = (&'static str, fn());

/// A function as a test of its name.
macro_rules! test {
    ($name:ident) => {
        (stringify!($name), $name as fn())
    };
}
pub(crate) use test;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(road::UNCONFINED) {
        return road::unconfined();
    }
    let filter = std::env::args().nth(1).filter(|word| !word.starts_with('-'));
    let chosen = |test: &&Test| filter.as_ref().is_none_or(|word| test.0.contains(word.as_str()));
    let tests = [
        sweep::TESTS,
        common::TESTS,
        supervisor::TESTS,
        worker::TESTS,
        denials::TESTS,
        late::TESTS,
        log::TESTS,
        shipped::TESTS,
    ]
    .concat();
    let tests: Vec<&Test> = tests.iter().filter(chosen).collect();
    let (next, passed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let run = || {
        while let Some((name, test)) = tests.get(next.fetch_add(1, Relaxed)) {
            let holds = catch_unwind(test).is_ok();
            println!("test {name} ... {}", if holds { "ok" } else { "FAILED" });
            passed.fetch_add(usize::from(holds), Relaxed);
        }
    };
    // Most of it is waiting for processes to start and to end.
    std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(run))));
    let (mut passed, mut failed) = (passed.into_inner(), tests.len());
    failed -= passed;
    println!("\n{}\n{}", tally::report(), road::filter_alone(common::ROADS));
    if filter.is_none() {
        let many = tally::as_many_as_promised();
        println!(
            "test as_many_attempts_as_promised ... {}",
            if many { "ok" } else { "FAILED" }
        );
        *(if many { &mut passed } else { &mut failed }) += 1;
    }
    // As the standard harness says it, for those who add results up.
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed");
    ExitCode::from(u8::from(failed != 0))
}
