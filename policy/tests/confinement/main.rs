//! Processes that confine themselves as in production, and what they can do then: how they start, what options give
//! and take, what still works. What an attacker in the real ones can not do is in `tests/tests/security_breach`. Runs
//! as root: it starts processes as root and as an ordinary user.

mod inside;
mod options;
mod outside;
mod spawning;
mod supervisor;
mod worker;

use std::panic::catch_unwind;
use std::process::ExitCode;

/// A name and what it does; it panics to fail.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    match (arguments.next().as_deref(), arguments.next().as_deref()) {
        (Some("airlockfs-worker"), namespaces) => inside::worker(namespaces.unwrap_or_default()),
        (_, Some("--supervisor")) => inside::supervisor(),
        (_, Some("--launcher")) => inside::launcher(),
        (_, filter) => run(filter
            .filter(|filter| !filter.starts_with('-'))
            .unwrap_or_default()),
    }
}

fn run(filter: &str) -> ExitCode {
    outside::leave_the_host();
    let tests = [spawning::TESTS, worker::TESTS, options::TESTS, supervisor::TESTS].concat();
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(filter)) {
        let holds = catch_unwind(test).is_ok();
        println!("test {name} ... {}", if holds { "ok" } else { "FAILED" });
        *(if holds { &mut passed } else { &mut failed }) += 1;
    }
    // As the standard harness says it, for those who add results up.
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed");
    ExitCode::from(u8::from(failed != 0))
}
