//! Reads the system call filter of a running process and says which calls it may let through.

use std::collections::HashSet;

use airlockfs_policy::filter::{self, Instruction};
use anyhow::{Context, Result};

/// Beyond the newest call of any kernel.
const NUMBERS: u32 = 600;

/// Numbers of the calls that every filter of a process lets through with some arguments. None if
/// the process has no filter.
///
/// # Errors
/// It may not be traced, or filters may not be read here (CAP_SYS_ADMIN, and no filter on this
/// process).
pub fn allowed(process: i32) -> Result<Option<Vec<u32>>> {
    let filters = filter::of_thread(process).context("its filter cannot be read")?;
    if filters.is_empty() {
        return Ok(None);
    }
    let passes = |number: &u32| filters.iter().all(|filter| may_allow(filter, *number));
    Ok(Some((0..NUMBERS).filter(passes).collect()))
}

/// Whether the filter allows this call with some arguments: each loaded argument may be anything.
fn may_allow(program: &[Instruction], number: u32) -> bool {
    let mut seen = HashSet::new();
    let mut open = vec![(0_usize, None::<u32>)];
    while let Some((at, accumulator)) = open.pop() {
        if !seen.insert((at, accumulator)) {
            continue;
        }
        let Some(step) = program.get(at) else { continue };
        let code = u32::from(step.code);
        let next = at + 1;
        match code & 0x07 {
            libc::BPF_RET => {
                let action = step.k & libc::SECCOMP_RET_ACTION_FULL;
                if action == libc::SECCOMP_RET_ALLOW || action == libc::SECCOMP_RET_LOG {
                    return true;
                }
            }
            // `struct seccomp_data`: number, architecture, instruction pointer, arguments.
            libc::BPF_LD => open.push((
                next,
                match step.k {
                    0 => Some(number),
                    4 => Some(ARCHITECTURE),
                    _ => None,
                },
            )),
            libc::BPF_JMP if code & 0xf0 == libc::BPF_JA => open.push((next + step.k as usize, accumulator)),
            libc::BPF_JMP => {
                let holds = accumulator.map(|value| match code & 0xf0 {
                    libc::BPF_JEQ => value == step.k,
                    libc::BPF_JGT => value > step.k,
                    libc::BPF_JGE => value >= step.k,
                    _ => value & step.k != 0,
                });
                if holds != Some(false) {
                    open.push((next + usize::from(step.jt), accumulator));
                }
                if holds != Some(true) {
                    open.push((next + usize::from(step.jf), accumulator));
                }
            }
            libc::BPF_ALU => open.push((
                next,
                match (code & 0xf0, accumulator) {
                    (libc::BPF_AND, Some(value)) => Some(value & step.k),
                    _ => None,
                },
            )),
            _ => open.push((next, accumulator)),
        }
    }
    false
}

/// AUDIT_ARCH_* of this machine (linux/audit.h).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

#[cfg(test)]
mod tests {
    use super::*;

    const fn step(code: u32, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction {
            code: code as u16,
            jt,
            jf,
            k,
        }
    }

    #[test]
    fn a_call_counts_whose_arguments_may_be_right() {
        let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        let program = [
            step(load, 0, 0, 0),
            step(equal, 3, 0, 7),
            step(equal, 1, 0, 9),
            step(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
            step(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW),
            step(load, 0, 0, 16),
            step(equal, 0, 1, 3),
            step(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW),
            step(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ERRNO | 1),
        ];
        let allowed: Vec<u32> = (0..20).filter(|number| may_allow(&program, *number)).collect();
        assert_eq!(allowed, [7, 9]);
    }
}
