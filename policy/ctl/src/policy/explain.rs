//! `airlockfsctl policy explain`: who may, why, with which arguments, brought by which option.

use std::fmt::Write;

use airlockfs_ipc::message::{Sandbox, SeccompMode};
use airlockfs_policy::{Feature, Features, Process, Profile, supervisor_profile, worker_profile};

use super::{document, text};

/// Who has what, and why.
#[derive(PartialEq, Eq)]
struct Found {
    who: &'static str,
    what: String,
    why: &'static str,
    conditions: Vec<String>,
}

/// The explanation, and whether any process may.
pub(super) fn explain(name: &str) -> (String, bool) {
    let mut shown: Vec<Found> = Vec::new();
    let mut out = String::new();
    for (brought_by, profile) in profiles() {
        for (found, by) in search(&profile, name, brought_by) {
            // Profiles with few options come first: the first to hold something names what brings it.
            if shown.contains(&found) {
                continue;
            }
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{}: {}, {by}: {}", found.who, found.what, found.why);
            for condition in &found.conditions {
                let _ = writeln!(out, "    {condition}");
            }
            shown.push(found);
        }
    }
    if shown.is_empty() {
        out = format!("{name}: neither process may, whatever the options\n");
    }
    (out, !shown.is_empty())
}

/// What of `profile` has this name, each with what brings it.
fn search(profile: &Profile, name: &str, brought_by: &'static str) -> Vec<(Found, &'static str)> {
    let name = name.to_lowercase();
    let capability = format!("CAP_{}", name.trim_start_matches("cap_").to_uppercase());
    let who = match profile.process {
        Process::Supervisor => "supervisor",
        Process::Worker => "worker",
    };
    let found = |kind: &str, name: &str, why, conditions| Found {
        who,
        what: format!("{kind} {name}"),
        why,
        conditions,
    };
    let calls = profile.syscalls.iter().filter(|rule| rule.name == name);
    let calls = calls.map(|rule| {
        let conditions = text::conditions(&document::syscall(rule));
        (
            found("system call", &name, rule.reason, conditions),
            option(rule.feature),
        )
    });
    let kept = profile.capabilities.iter();
    let kept = kept.filter(|kept| kept.what.to_string() == capability);
    let kept = kept.map(|kept| {
        (
            found("capability", &capability, kept.reason, Vec::new()),
            brought_by,
        )
    });
    let rights = profile.landlock.rights.iter().filter(|right| right.name == name);
    let rights = rights.map(|right| {
        (
            found("Landlock right", &name, right.reason, Vec::new()),
            option(right.feature),
        )
    });
    calls.chain(kept).chain(rights).collect()
}

/// Profiles that together hold everything any command line allows, and what brings what is new in each.
fn profiles() -> Vec<(&'static str, Profile)> {
    let least = Features {
        rootful: true,
        readonly: true,
        owners: true,
        no_setuid: false,
        xattr: false,
        device_nodes: false,
        project_ids: false,
        file_flags: true,
        immutable_flags: false,
        trusted_xattr: false,
        donate: false,
        posix_lock: false,
        flock: false,
        sandbox: Sandbox::Namespace,
        seccomp: SeccompMode::Kill,
        allow_missing: Vec::new(),
    };
    let writing = Features {
        readonly: false,
        ..least.clone()
    };
    let xattr = Features {
        xattr: true,
        ..writing.clone()
    };
    let devices = Features {
        device_nodes: true,
        ..writing.clone()
    };
    let projects = Features {
        project_ids: true,
        ..writing.clone()
    };
    let immutable = Features {
        immutable_flags: true,
        ..writing.clone()
    };
    let all = |readonly| Features {
        readonly,
        xattr: true,
        device_nodes: true,
        project_ids: true,
        donate: true,
        posix_lock: true,
        flock: true,
        seccomp: SeccompMode::Trap,
        ..least.clone()
    };
    [
        (option(Feature::Base), &least),
        (option(Feature::Write), &writing),
        (option(Feature::XattrWrite), &xattr),
        (option(Feature::DeviceNodes), &devices),
        (option(Feature::ProjectIds), &projects),
        ("with --allow-immutable unless --readonly", &immutable),
        (option(Feature::Write), &all(false)),
        (option(Feature::ReadOnly), &all(true)),
    ]
    .into_iter()
    .flat_map(|(by, features)| [(by, supervisor_profile(features)), (by, worker_profile(features))])
    .collect()
}

/// Which options bring a feature.
const fn option(feature: Feature) -> &'static str {
    match feature {
        Feature::Base | Feature::FileFlags => "always",
        Feature::Write | Feature::FileFlagsWrite => "unless --readonly",
        Feature::ReadOnly => "with --readonly",
        Feature::SetId => "unless --readonly or --no-setuid",
        Feature::NoSetId => "with --no-setuid unless --readonly",
        Feature::Owner => "unless --readonly, or --uid with --gid",
        Feature::Xattr => "with --xattr",
        Feature::XattrWrite => "with --xattr unless --readonly",
        Feature::ProjectIds => "with --allow-project-ids unless --readonly",
        Feature::DeviceNodes => "with --allow-device-nodes unless --readonly",
        Feature::Donate => "unless --no-donate",
        Feature::DonateWrite => "unless --no-donate or --readonly",
        Feature::PosixLock => "with --posix-lock",
        Feature::Flock => "with --flock",
        Feature::Trap => "with --seccomp trap",
    }
}
