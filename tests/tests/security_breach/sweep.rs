//! The whole table of system calls from the real processes: every call that is not on the list, and
//! every listed call with good arguments and with each pinned bit altered. All of it comes from
//! what `policy show` prints.

use airlockfs_breach::{Argument, Order};
use airlockfs_tests::skip::skip;

use crate::Test;
use crate::pair::{BOTH, Filter, Outcome, Pair, USER, Who};
use crate::policy::{Pin, Rule, Verdict};
use crate::test;

pub(crate) const TESTS: &[Test] = &[
    test!(every_call_that_is_not_on_the_list_is_trapped),
    test!(a_call_that_is_not_on_the_list_kills_in_production),
    test!(every_altered_bit_of_a_pinned_argument_is_trapped),
    test!(an_altered_argument_kills_in_production),
    test!(every_rule_lets_good_arguments_through),
    test!(no_thread_is_ever_made),
    test!(the_32_bit_entry_kills),
    test!(the_filter_holds_on_every_thread),
];

/// Command lines that between them turn every feature on and off, and who starts them.
const PROFILES: &[(&[&str], Option<u32>)] = &[
    (&[], None),
    (&[], Some(USER)),
    (&["--readonly"], None),
    (&["--readonly", "--xattr"], None),
    (&["--xattr", "--posix-acl"], None),
    (
        &[
            "--posix-lock",
            "--flock",
            "--allow-device-nodes",
            "--allow-project-ids",
        ],
        None,
    ),
    (&["--no-donate"], None),
    (&["--no-setuid", "--xattr"], None),
    (&["--uid=0", "--gid=0"], None),
    (&["--sandbox=none"], None),
    (&["--sandbox=chroot"], None),
];

/// Calls that only the kernel's own trampolines of uprobes make: the filter is not asked, elsewhere they end in SIGILL
/// (x86-64: uretprobe, uprobe).
const UPROBES: [i64; 2] = [335, 336];

/// Numbers beyond the newest call of any kernel, those of the x32 ABI, and some that are no number at all.
fn every_number() -> impl Iterator<Item = i64> {
    const X32: i64 = 0x4000_0000;
    const ODD: [i64; 6] = [
        0xfff,
        0x1_0000,
        0x3fff_ffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fffe,
    ];
    (0..700).chain(X32..X32 + 700).chain(ODD)
}

/// Every number that the profile does not list.
fn unlisted(pair: &Pair, who: Who) -> Vec<i64> {
    let policy = pair.policy(who);
    every_number()
        .filter(|number| !UPROBES.contains(number) && !policy.lists(*number))
        .collect()
}

fn every_call_that_is_not_on_the_list_is_trapped() {
    for (options, user) in PROFILES {
        let pair = Pair::started(Filter::Trap, options, *user);
        for who in BOTH {
            // Nothing, and what is no good pointer, descriptor or length.
            for register in [0, u64::MAX] {
                let calls: Vec<_> = unlisted(&pair, who)
                    .into_iter()
                    .map(|number| (number, [register; 6]))
                    .collect();
                for outcome in pair.calls(who, &calls) {
                    assert_eq!(outcome, Outcome::Trapped);
                    pair.denied(who, outcome);
                }
            }
        }
    }
}

/// Each costs a pair of processes: a sample, which between the two covers the table of today's kernels thinly.
fn a_call_that_is_not_on_the_list_kills_in_production() {
    let pair = Pair::new(Filter::Kill, &[]);
    for who in BOTH {
        let numbers = unlisted(&pair, who);
        for number in numbers.into_iter().skip(who as usize * 20).step_by(40) {
            let pair = Pair::new(Filter::Kill, &[]);
            let outcome = pair.call(who, number, &[]);
            assert_eq!(outcome, Outcome::Killed);
            pair.denied(who, outcome);
        }
    }
}

/// Registers that satisfy these pins; the rest is no good pointer, descriptor, length or command, so that a call that
/// passes the filter does nothing.
fn good(pins: &[Pin]) -> [u64; 6] {
    let mut registers = [u64::MAX; 6];
    // What must not have a value has another one already.
    let pins = || pins.iter().filter(|pin| !pin.not);
    for pin in pins() {
        registers[pin.index] = 0;
    }
    // Two pins may share a register, each with bits of its own.
    for pin in pins() {
        registers[pin.index] |= pin.value;
    }
    registers
}

/// For each pinned bit of a rule, registers in which it alone is wrong, unless another line of the table takes them.
fn altered(pair: &Pair, who: Who, rule: &Rule) -> Vec<(i64, [u64; 6])> {
    let mut calls = Vec::new();
    for pins in &rule.alternatives {
        for pin in pins {
            let right = good(pins)[pin.index];
            let wrong: Vec<u64> = match pin.not {
                // The upper half of the register does not count for an `int`.
                true => vec![pin.value, pin.value | !pin.mask],
                false => {
                    let bits = (0..64).map(|bit| 1_u64 << bit);
                    bits.filter(|bit| pin.mask & bit != 0)
                        .map(|bit| right ^ bit)
                        .collect()
                }
            };
            for value in wrong {
                let mut registers = good(pins);
                registers[pin.index] = value;
                if pair.policy(who).verdict(rule.number, &registers) == Verdict::Forbidden {
                    calls.push((rule.number, registers));
                }
            }
        }
    }
    calls
}

fn every_altered_bit_of_a_pinned_argument_is_trapped() {
    for (options, user) in PROFILES {
        let pair = Pair::started(Filter::Trap, options, *user);
        for who in BOTH {
            let rules = pair.policy(who).rules.iter();
            let calls: Vec<_> = rules.flat_map(|rule| altered(&pair, who, rule)).collect();
            assert!(calls.len() > 100, "{who:?}");
            for outcome in pair.calls(who, &calls) {
                assert_eq!(outcome, Outcome::Trapped);
                pair.denied(who, outcome);
            }
        }
    }
}

/// One altered bit of each pinned rule, another one for each rule.
fn an_altered_argument_kills_in_production() {
    let pair = Pair::new(Filter::Kill, &[]);
    for who in BOTH {
        for (nth, rule) in pair.policy(who).rules.iter().enumerate() {
            let calls = altered(&pair, who, rule);
            let Some((number, registers)) = calls.get((nth * 7) % calls.len().max(1)) else {
                continue;
            };
            let pair = Pair::new(Filter::Kill, &[]);
            let outcome = pair.call(who, *number, &registers.map(Argument::from));
            assert_eq!(outcome, Outcome::Killed, "{}", rule.name);
            pair.denied(who, outcome);
        }
    }
}

/// In production: what does not pass kills.
fn every_rule_lets_good_arguments_through() {
    for (options, user) in PROFILES {
        let pair = Pair::started(Filter::Kill, options, *user);
        for who in BOTH {
            for rule in &pair.policy(who).rules {
                let alternatives = match rule.alternatives.as_slice() {
                    [] => vec![good(&[])],
                    some => some.iter().map(|pins| good(pins)).collect(),
                };
                for registers in alternatives {
                    // They do not come back; below.
                    if ["exit_group", "rt_sigreturn"].contains(&rule.name.as_str()) {
                        continue;
                    }
                    let outcome = pair.call(who, rule.number, &registers.map(Argument::from));
                    assert!(matches!(outcome, Outcome::Returned(_)), "{who:?} {}", rule.name);
                }
            }
            // Serving goes on after all of this.
            pair.guest
                .statfs(airlockfs_tests::fuse::abi::ROOT)
                .expect("STATFS");
        }
        pair.exits(Who::Worker);
    }
    Pair::new(Filter::Kill, &[]).returns_from_no_handler();
}

fn no_thread_is_ever_made() {
    for who in BOTH {
        let pair = Pair::new(Filter::Kill, &[]);
        let outcome = match pair.order(who, &Order::Thread) {
            Ok((result, _)) => Outcome::Returned(result),
            Err(outcome) => outcome,
        };
        assert_eq!(outcome, Outcome::Killed, "{who:?}");
        pair.denied(who, outcome);
    }
}

fn the_32_bit_entry_kills() {
    if !cfg!(target_arch = "x86_64") {
        return skip("the_32_bit_entry_kills", "this architecture has no such entry");
    }
    for who in BOTH {
        // Where numbers mean other calls: exit, fork, read, open, execve, mount, ptrace, socketcall, clone, openat.
        for number in [1, 2, 3, 5, 11, 21, 26, 102, 120, 295] {
            let pair = Pair::new(Filter::Kill, &[]);
            let outcome = match pair.order(who, &Order::Legacy(number)) {
                Ok((result, _)) => Outcome::Returned(result),
                Err(outcome) => outcome,
            };
            assert_eq!(outcome, Outcome::Killed, "{who:?} {number}");
            pair.denied(who, outcome);
        }
    }
}

fn the_filter_holds_on_every_thread() {
    for who in BOTH {
        let pair = Pair::new(Filter::Kill, &[]);
        let pid = pair.process(who).pid();
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
        for thread in threads {
            let status = thread.expect("a thread").path().join("status");
            let status = std::fs::read_to_string(status).expect("its status");
            // SECCOMP_MODE_FILTER
            assert!(
                status.lines().any(|line| line == "Seccomp:\t2"),
                "{who:?}: {status}"
            );
        }
        let inet = [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0.into()];
        let outcome = pair.call_on_a_thread(who, libc::SYS_socket, &inet);
        assert_eq!(outcome, Outcome::Killed);
        pair.denied(who, outcome);
    }
}
