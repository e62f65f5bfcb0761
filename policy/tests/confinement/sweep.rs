//! The whole table of system calls against both filters: every call not on the list, and every pinned one with
//! arguments that break a pin, is trapped.

use airlockfs_ipc::message::SeccompMode;
use airlockfs_policy::{Features, Profile, Test as Condition, supervisor_profile, worker_profile};

use crate::Test;
use crate::order::{Argument, TRAPPED};
use crate::outside::{Outcome, Scratch, Session, config, supervisor, worker};

pub(crate) const TESTS: &[Test] = &[
    ("every call that is not on a list is trapped", every_other_call),
    ("every pinned argument holds", every_pin),
];

/// Calls that only the kernel's own trampolines of uprobes make: the filter is not asked, elsewhere they end in SIGILL
/// (x86-64: uretprobe, uprobe).
const UPROBES: [i64; 2] = [335, 336];

/// Beyond the newest call of any kernel, and the numbers of the x32 ABI.
fn every_number() -> impl Iterator<Item = i64> {
    const X32: i64 = 0x4000_0000;
    (0..700).chain(X32..X32 + 700)
}

fn both(check: impl Fn(&Session, &Profile)) {
    let scratch = Scratch::new("sweep");
    for readonly in [false, true] {
        let mut trapping = config(scratch.path());
        trapping.seccomp = SeccompMode::Trap;
        trapping.readonly = readonly;
        let features = Features::of(&trapping, true);
        check(&worker(&trapping), &worker_profile(&features));
        check(&supervisor(&trapping, 0, &[]), &supervisor_profile(&features));
    }
}

fn every_other_call() {
    both(|session, profile| {
        let listed =
            |number| UPROBES.contains(&number) || profile.syscalls.iter().any(|rule| rule.number == number);
        for number in every_number().filter(|number| !listed(*number)) {
            assert_eq!(
                session.call(number, &[]),
                Outcome::Returned(TRAPPED),
                "{:?} {number}",
                profile.process
            );
        }
    });
}

fn every_pin() {
    both(|session, profile| {
        for rule in &profile.syscalls {
            let alternatives = profile
                .syscalls
                .iter()
                .filter(|other| other.number == rule.number);
            let alternatives: Vec<_> = alternatives.flat_map(|other| other.pins).collect();
            // Arguments of each alternative with one of its pins broken, unless another alternative takes them.
            for (pins, broken) in rule
                .pins
                .iter()
                .flat_map(|pins| (0..pins.len()).map(move |broken| (pins, broken)))
            {
                let mut registers = [0_u64; 6];
                for pin in *pins {
                    registers[usize::from(pin.argument)] = match pin.test {
                        Condition::Is(value) | Condition::Bits(_, value) => value,
                    };
                }
                let pin = &pins[broken];
                let mask = match pin.test {
                    Condition::Is(_) => 0xffff_ffff,
                    Condition::Bits(mask, _) => mask,
                };
                for bit in (0..64).map(|bit| 1_u64 << bit).filter(|bit| mask & bit != 0) {
                    let mut altered = registers;
                    altered[usize::from(pin.argument)] ^= bit;
                    let taken = |pins: &&&[airlockfs_policy::Pin]| {
                        pins.iter()
                            .all(|pin| pin.matches(altered[usize::from(pin.argument)]))
                    };
                    if alternatives.iter().any(taken) {
                        continue;
                    }
                    let outcome = session.call(rule.number, &altered.map(Argument::from));
                    assert_eq!(outcome, Outcome::Returned(TRAPPED), "{} {altered:x?}", rule.name);
                }
            }
        }
    });
}
