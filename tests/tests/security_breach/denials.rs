//! Denials are visible: the kernel's log and the pair's own log say who was denied what.

use std::time::{Duration, Instant};

use libc::*;

use airlockfs_tests::skip::skip;

use crate::common::loopback;
use crate::kernel_log::{
    Auditing, LANDLOCK_ACCESS, LANDLOCK_DOMAIN, Printed, Records, SECCOMP, has, print_limit,
};
use crate::pair::{BOTH, Filter, Outcome, Pair, Who};
use crate::road::args;
use crate::{Test, test};

pub(crate) const TESTS: &[Test] = &[
    test!(a_forbidden_call_is_in_the_kernels_log_and_in_the_pairs_own),
    test!(what_landlock_denies_is_in_the_kernels_log),
    test!(the_kernel_prints_denials_at_a_bounded_rate),
    test!(a_panic_is_told_and_ends_the_supervisor_without_a_forbidden_call),
];

fn name(who: Who) -> &'static str {
    match who {
        Who::Supervisor => "airlockfsd",
        Who::Worker => "airlockfs-worke",
    }
}

/// Has Landlock, without a filter, deny the worker to list `/proc/self/fd`, and the supervisor to connect to a port: what
/// else it tries is denied by more than that.
fn denied(pair: &Pair, who: Who) {
    let outcome = match who {
        Who::Worker => pair.call(who, SYS_openat, args![AT_FDCWD, ".", O_RDONLY | O_DIRECTORY]),
        Who::Supervisor => {
            let socket = pair.call(who, SYS_socket, args![AF_INET, SOCK_STREAM, 0]);
            let Outcome::Returned(socket @ 0..) = socket else {
                panic!("no socket: {socket:?}");
            };
            let address = loopback(PORT);
            let length = address.len();
            let outcome = pair.call(who, SYS_connect, args![socket, address, length]);
            pair.call(who, SYS_close, args![socket]);
            outcome
        }
    };
    assert_eq!(outcome, Outcome::Returned(-i64::from(EACCES)), "{who:?}");
    pair.denied(who, outcome);
}

const PORT: u16 = 4242;

/// What the record says of that.
fn blockers(who: Who) -> [String; 2] {
    match who {
        Who::Worker => ["blockers=fs.read_dir".into(), "dev=\"proc\"".into()],
        Who::Supervisor => ["blockers=net.connect_tcp".into(), format!("dest={PORT}")],
    }
}

/// A bug is told as one, not as an attack: what Rust does at a panic takes no call that the filter lacks.
fn a_panic_is_told_and_ends_the_supervisor_without_a_forbidden_call() {
    let pair = Pair::new(Filter::Kill, &[]);
    // EX_SOFTWARE (sysexits.h)
    assert_eq!(pair.panics().code(), Some(70));
    assert!(pair.told("airlockfsd: internal error: "), "it is silent");
}

/// With `--seccomp kill`. The call's number is the kernel's to tell, the death that of the other process: also the
/// supervisor's, which nobody else in the pair outlives.
fn a_forbidden_call_is_in_the_kernels_log_and_in_the_pairs_own() {
    for who in BOTH {
        let pair = Pair::new(Filter::Kill, &[]);
        let (records, pid) = (Records::from_now(), pair.process(who).pid());
        assert_eq!(pair.call(who, SYS_sysinfo, args![0]), Outcome::Killed);
        pair.denied(who, Outcome::Killed);
        let told = match who {
            Who::Supervisor => "airlockfs-worker: INFO: airlockfsd ended without a farewell",
            Who::Worker => "made a system call that its filter forbids (SIGSYS)",
        };
        assert!(pair.told(told), "{who:?}");
        match records {
            Ok(records) => {
                let (pid, call) = (format!("pid={pid}"), format!("syscall={SYS_sysinfo}"));
                let record = records.next(SECCOMP, &[&pid, &call, "sig=31"]);
                println!("{who:?}: {}", record.expect("the kernel's record"));
            }
            Err(why) => skip("audit record 1326", &why),
        }
    }
}

/// Where auditing is on, from Landlock ABI 7 on: without a flag at landlock_restrict_self(2), as both processes do it
/// themselves and execute nothing.
fn what_landlock_denies_is_in_the_kernels_log() {
    for who in BOTH {
        // The kernel gives records up rather than wait, when the tests beside this one are denied much.
        while !a_landlock_denial_is_recorded(who) {
            println!("{who:?}: records were lost: again");
        }
    }
}

/// Whether it was, and all its records came: `false` if records were lost, and one of these is missing.
fn a_landlock_denial_is_recorded(who: Who) -> bool {
    // Before the pair: each process proves at its start that it is denied something, and whose domain it is, is said once.
    let audited = Auditing::turned_on().and_then(|on| Records::from_now().map(|records| (on, records)));
    let pair = Pair::new(Filter::None, &[]);
    let pid = pair.process(who).pid();
    let audited = match pair.landlock_abi() {
        7.. => audited,
        abi => Err(format!("Landlock ABI {abi} tells of no denial, 7 does")),
    };
    let printed = Printed::from_now();
    denied(&pair, who);
    let (auditing, records) = match audited {
        Ok(audited) => audited,
        // It was denied all the same.
        Err(why) => {
            skip("audit records 1423 and 1424", &why);
            return true;
        }
    };
    let [blockers, object] = &blockers(who);
    // Pairs of other tests are denied the same meanwhile.
    let (mut denials, mut domains) = (Vec::new(), Vec::new());
    let mine = format!("pid={pid}");
    let found = records.find(|kind, text| {
        match kind {
            LANDLOCK_ACCESS if has(text, &[blockers, object]) => denials.push(text.to_owned()),
            LANDLOCK_DOMAIN if has(text, &["status=allocated", &mine]) => domains.push(text.to_owned()),
            _ => return None,
        }
        let pairs = denials
            .iter()
            .flat_map(|denial| domains.iter().map(move |whose| (denial, whose)));
        let mut mine = pairs.filter(|(denial, whose)| domain(denial) == domain(whose));
        mine.next().map(|(denial, whose)| (denial.clone(), whose.clone()))
    });
    let Some((denial, whose)) = found else {
        assert!(
            records.lost(),
            "{who:?}: no record of the denial and of its domain"
        );
        return false;
    };
    println!("{who:?}: {denial}\n{who:?}: {whose}");
    assert!(whose.contains(&format!("comm=\"{}", name(who))), "{whose}");
    if auditing.daemon {
        skip("the records in /dev/kmsg", "auditd takes them");
        return true;
    }
    let mut printed = match printed {
        Ok(printed) => printed,
        Err(why) => {
            skip("the records in the kernel's own log", &why);
            return true;
        }
    };
    // The rate is everybody's: others' records may have used it up, so more than one denial may be needed.
    let line = (0..60).find_map(|nth| {
        if nth > 0 {
            denied(&pair, who);
        }
        printed.next(LANDLOCK_ACCESS, &[domain(&denial)], Duration::from_secs(1))
    });
    println!("{who:?}: {}", line.expect("the record in /dev/kmsg"));
    true
}

/// The field of a record that says which domain.
fn domain(denial: &str) -> &str {
    let mut fields = denial.split_whitespace();
    fields
        .find(|field| field.starts_with("domain="))
        .expect("the domain")
}

/// However often a fallen process has itself denied.
fn the_kernel_prints_denials_at_a_bounded_rate() {
    const MANY: usize = 2000;
    let pair = Pair::new(Filter::None, &[]);
    let auditing = match Auditing::turned_on() {
        Ok(auditing) if !auditing.daemon => auditing,
        Ok(_) => return skip("the kernel's own rate", "auditd takes the records"),
        Err(why) => return skip("the kernel's own rate", &why),
    };
    let (burst, interval) = print_limit();
    let mut printed = match Printed::from_now() {
        Ok(printed) => printed,
        Err(why) => return skip("the kernel's own rate", &why),
    };
    let start = Instant::now();
    let name = pair.place(Who::Worker, b".\0");
    let registers = [
        i64::from(AT_FDCWD).cast_unsigned(),
        name,
        (O_RDONLY | O_DIRECTORY) as u64,
        0,
        0,
        0,
    ];
    for outcome in pair.calls(Who::Worker, &vec![(SYS_openat, registers); MANY]) {
        assert_eq!(outcome, Outcome::Returned(-i64::from(EACCES)));
    }
    drop(auditing);
    let mut lines = 0;
    while printed
        .next(
            LANDLOCK_ACCESS,
            &["blockers=fs.read_dir"],
            Duration::from_millis(200),
        )
        .is_some()
    {
        lines += 1;
    }
    let intervals = start.elapsed().as_secs() / interval.max(1) + 1;
    println!("{MANY} denials: {lines} lines in {intervals} intervals of {interval} s, {burst} a piece");
    assert!(lines <= burst * (intervals + 1), "{lines} lines");
}
