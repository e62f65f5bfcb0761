//! A policy for people: a line for each thing that is allowed, with its reason.

use std::fmt::Write;

use super::document::{Argument, Document, Grant, Policy, Syscall};

/// Both processes, one after the other.
pub(super) fn policy(policy: &Policy) -> String {
    let mut out = String::new();
    for (name, named) in policy.both() {
        if !out.is_empty() {
            out.push('\n');
        }
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name}  {}", named.digest);
        profile(&mut out, &named.profile);
    }
    out
}

fn profile(out: &mut String, profile: &Document) {
    let calls = &profile.syscalls;
    let otherwise = match profile.default_action.as_str() {
        "kill" => "any other kills the process",
        "log" => "any other is logged and CARRIED OUT",
        "trap" => "any other raises SIGSYS",
        _ => "NOT ENFORCED: there is no filter",
    };
    let mut names: Vec<&str> = calls
        .iter()
        .filter(|call| call.errno.is_none())
        .map(|call| call.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    let _ = writeln!(out, "  system calls: {}; {otherwise}", names.len());
    for call in calls {
        let _ = writeln!(out, "    {:<18} {:<16} {}", call.name, call.feature, call.reason);
        for condition in conditions(call) {
            let _ = writeln!(out, "    {:<18} {:<16}   {condition}", "", "");
        }
    }
    grants(
        out,
        "Landlock: these rights beneath the share; no other file, no network, no signal outwards",
        &profile.landlock,
    );
    grants(
        out,
        "capabilities: permitted and effective; every other set is empty",
        &profile.capabilities,
    );
    grants(out, "namespaces of its own", &profile.namespaces);
    let _ = writeln!(out, "  limits, soft and hard");
    for limit in &profile.limits {
        let name = format!("{} {}", limit.name, limit.value);
        let _ = writeln!(out, "    {name:<18} {}", limit.reason);
    }
    let _ = writeln!(out, "  what else holds");
    for held in &profile.state {
        let _ = writeln!(out, "    {:<18} {}: {}", held.subject, held.name, held.reason);
    }
}

fn grants(out: &mut String, title: &str, grants: &[Grant]) {
    let _ = writeln!(out, "  {title}");
    if grants.is_empty() {
        let _ = writeln!(out, "    none");
    }
    for grant in grants {
        let _ = writeln!(out, "    {:<18} {}", grant.name, grant.reason);
    }
}

/// With which arguments, a line for each alternative; none: with any.
pub(super) fn conditions(call: &Syscall) -> Vec<String> {
    if let Some(errno) = call.errno {
        return vec![format!("answered with {:?}", nix::errno::Errno::from_raw(errno))];
    }
    let lines = call.arguments.iter();
    lines
        .map(|pins| {
            pins.iter()
                .map(Argument::to_string)
                .collect::<Vec<_>>()
                .join(" and ")
        })
        .collect()
}
