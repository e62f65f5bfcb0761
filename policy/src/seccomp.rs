//! The system call filter (seccomp(2)): compiled from a profile's rules, installed on every thread.

use std::collections::BTreeMap;

use airlockfs_ipc::message::SeccompMode;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use crate::rule::{Pin, SyscallRule, Test, Width};
use crate::{ExitKind, Profile, StartError};

/// The program of `profile`; none for [`SeccompMode::None`].
pub(crate) fn compile(profile: &Profile) -> Result<Option<BpfProgram>, StartError> {
    let denied = match profile.seccomp {
        SeccompMode::Kill => SeccompAction::KillProcess,
        SeccompMode::Log => SeccompAction::Log,
        SeccompMode::Trap => SeccompAction::Trap,
        SeccompMode::None => return Ok(None),
    };
    program(&profile.syscalls, denied).map(Some).map_err(|error| {
        StartError::new(
            ExitKind::Software,
            format!("the system call filter does not compile: {error}"),
        )
    })
}

/// Installs `program` on all threads (SECCOMP_FILTER_FLAG_TSYNC).
pub(crate) fn install(program: &BpfProgram) -> Result<(), StartError> {
    seccompiler::apply_filter_all_threads(program).map_err(|error| {
        StartError::new(
            ExitKind::Unavailable,
            format!("cannot install the system call filter: {error}; the kernel needs CONFIG_SECCOMP_FILTER"),
        )
    })
}

/// Instructions of the compiler's programs before the first comparison of the call's number: the check of the
/// architecture, and the load of that number.
const HEAD: usize = 4;

/// The kernel tries a filter with every number when it is installed, and with every call whose arguments count later. So
/// the lines of a call, which the compiler makes a program of their own, stand at the end of a binary search for it.
fn program(rules: &[SyscallRule], denied: SeccompAction) -> Result<BpfProgram, BackendError> {
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for rule in rules.iter().filter(|rule| rule.errno.is_none()) {
        let alternatives = allowed.entry(rule.number).or_default();
        for pins in rule.pins {
            let conditions: Result<Vec<_>, _> = pins.iter().map(condition).collect();
            alternatives.push(SeccompRule::new(conditions?)?);
        }
    }
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut program = refusals(rules);
    let (mut head, mut calls) = (None, Vec::new());
    for (number, alternatives) in allowed {
        let any_arguments = alternatives.is_empty();
        let filter = SeccompFilter::new(
            BTreeMap::from([(number, alternatives)]),
            denied.clone(),
            SeccompAction::Allow,
            architecture,
        )?;
        let mut call = BpfProgram::try_from(filter)?;
        let own = call.split_off(HEAD);
        head.get_or_insert(call);
        // The range of system call numbers is far smaller.
        let number = number as u32;
        calls.push(match any_arguments {
            true => (number, allow(number, &denied)),
            false => (number, own),
        });
    }
    program.extend(head.unwrap_or_default());
    program.extend(search(&calls, &denied));
    Ok(program)
}

/// Lets a call through whatever its arguments are.
fn allow(number: u32, denied: &SeccompAction) -> BpfProgram {
    vec![
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, SeccompAction::Allow.into()),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, denied.clone().into()),
    ]
}

/// Finds the program of the call whose number is loaded, in the order of their numbers. Each of them ends with an action,
/// also for another number.
fn search(calls: &[(u32, BpfProgram)], denied: &SeccompAction) -> BpfProgram {
    let (below, from) = calls.split_at(calls.len() / 2);
    let pivot = match from {
        [] => return vec![step(libc::BPF_RET | libc::BPF_K, 0, 0, denied.clone().into())],
        [(_, only)] if below.is_empty() => return only.clone(),
        [(pivot, _), ..] => *pivot,
    };
    let (below, from) = (search(below, denied), search(from, denied));
    let compare = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    let mut program = match u8::try_from(below.len()) {
        Ok(distance) => vec![step(compare, distance, 0, pivot)],
        // Conditional jumps do not reach that far.
        Err(_) => vec![
            step(compare, 0, 1, pivot),
            step(libc::BPF_JMP | libc::BPF_JA, 0, 0, below.len() as u32),
        ],
    };
    program.extend(below);
    program.extend(from);
    program
}

const fn step(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

/// Calls answered with an error number stand in front: the compiler knows one action besides the default. They come
/// before its check of the architecture, and refuse whatever has their number there.
fn refusals(rules: &[SyscallRule]) -> BpfProgram {
    let refused: Vec<(u32, i32)> = rules
        .iter()
        .filter_map(|rule| Some((u32::try_from(rule.number).ok()?, rule.errno?)))
        .collect();
    if refused.is_empty() {
        return BpfProgram::new();
    }
    // `struct seccomp_data` begins with the call's number.
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for (number, errno) in refused {
        program.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number));
        let answer = libc::SECCOMP_RET_ERRNO | (errno as u32 & libc::SECCOMP_RET_DATA);
        program.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, answer));
    }
    program
}

fn condition(pin: &Pin) -> Result<SeccompCondition, BackendError> {
    let length = match pin.width {
        Width::Int => SeccompCmpArgLen::Dword,
        Width::Long => SeccompCmpArgLen::Qword,
    };
    let (operator, value) = match pin.test {
        Test::Is(value) => (SeccompCmpOp::Eq, value),
        Test::Bits(mask, value) => (SeccompCmpOp::MaskedEq(mask), value),
        Test::Not(value) => (SeccompCmpOp::Ne, value),
    };
    SeccompCondition::new(pin.argument, length, operator, value)
}
