//! User namespaces and the id maps the parent writes for them (user_namespaces(7), newuidmap(1)).

use std::fs;
use std::process::{Command, Stdio};

use caps::Capability;
use nix::unistd::{User, getegid, geteuid};

use crate::{ExitKind, StartError, capabilities};

/// A range of an id map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMapRange {
    /// First id inside the namespace.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Whether the worker gets a user namespace and what ids it maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum UserNamespace {
    /// None where the caller has the host's capabilities. Otherwise a new one: 0 is the caller, 1 and up are its
    /// subordinate ids (subuid(5)) where newuidmap(1) is there; without, the caller is the only id.
    #[default]
    Auto,
    /// A new one with these maps (`--uid-map`, `--gid-map`); an empty list stands for the caller's own id as 0.
    Maps {
        /// User ids.
        uids: Vec<IdMapRange>,
        /// Group ids.
        gids: Vec<IdMapRange>,
    },
}

/// How the maps of a new user namespace are written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Maps {
    uids: Vec<IdMapRange>,
    gids: Vec<IdMapRange>,
    way: Way,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By the caller, who has CAP_SETUID and CAP_SETGID.
    Privileged,
    /// By newuidmap and newgidmap; if they fail the caller's own ids alone.
    HelperOrOwn,
    /// By newuidmap and newgidmap.
    Helper,
}

impl UserNamespace {
    /// The maps to write, or none if there is to be no user namespace.
    pub(crate) fn maps(&self) -> Option<Maps> {
        let privileged = capabilities::has(Capability::CAP_SYS_ADMIN);
        match self {
            Self::Auto if privileged => None,
            Self::Auto => Some(Maps {
                uids: with_subordinate(geteuid().as_raw(), "/etc/subuid"),
                gids: with_subordinate(getegid().as_raw(), "/etc/subgid"),
                way: Way::HelperOrOwn,
            }),
            Self::Maps { uids, gids } => Some(Maps {
                uids: or_own(uids, geteuid().as_raw()),
                gids: or_own(gids, getegid().as_raw()),
                way: if privileged { Way::Privileged } else { Way::Helper },
            }),
        }
    }
}

impl Maps {
    /// Writes them for the user namespace of process `pid`, made by the caller. Returns what the user should know.
    pub(crate) fn write(&self, pid: i32) -> Result<Vec<String>, StartError> {
        let mut notes = Vec::new();
        // Groups first: a map of the own group alone needs setgroups(2) denied, which must precede it.
        for (kind, ranges, own) in [
            ("gid", &self.gids, getegid().as_raw()),
            ("uid", &self.uids, geteuid().as_raw()),
        ] {
            let only_own = ranges.as_slice() == [own_id(own)];
            match self.way {
                Way::Privileged => write_file(pid, kind, ranges)?,
                _ if only_own => {
                    write_own(pid, kind, own)?;
                    if self.way == Way::HelperOrOwn {
                        notes.push(only_own_note(
                            kind,
                            &format!("/etc/sub{kind} has no range for you"),
                        ));
                    }
                }
                Way::Helper => run_helper(pid, kind, ranges)?,
                Way::HelperOrOwn => {
                    if let Err(error) = run_helper(pid, kind, ranges) {
                        write_own(pid, kind, own)?;
                        notes.push(only_own_note(kind, &error.message));
                    }
                }
            }
        }
        Ok(notes)
    }
}

/// Maps the caller's own ids to themselves in the user namespace it just made; setgroups(2) is denied from then on.
pub(crate) fn map_self(uid: u32, gid: u32) -> Result<(), StartError> {
    let same = |id| {
        [IdMapRange {
            inside: id,
            outside: id,
            count: 1,
        }]
    };
    let pid =
        i32::try_from(std::process::id()).map_err(|_| StartError::new(ExitKind::Software, "own pid"))?;
    deny_setgroups(pid)?;
    write_file(pid, "gid", &same(gid))?;
    write_file(pid, "uid", &same(uid))
}

fn only_own_note(kind: &str, why: &str) -> String {
    format!(
        "only your own {kind} can own files in the share: {why} (install uidmap and add ranges to change that)"
    )
}

const fn own_id(id: u32) -> IdMapRange {
    IdMapRange {
        inside: 0,
        outside: id,
        count: 1,
    }
}

fn or_own(ranges: &[IdMapRange], own: u32) -> Vec<IdMapRange> {
    if ranges.is_empty() {
        vec![own_id(own)]
    } else {
        ranges.to_vec()
    }
}

/// The own id as 0, then the first subordinate range from 1 up.
fn with_subordinate(own: u32, file: &str) -> Vec<IdMapRange> {
    let uid = geteuid();
    let name = User::from_uid(uid)
        .ok()
        .flatten()
        .map(|user| user.name)
        .unwrap_or_default();
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut ranges = vec![own_id(own)];
    ranges.extend(subordinate(&text, &name, uid.as_raw()));
    ranges
}

/// The first range of the user in the text of a subuid(5) or subgid(5) file.
fn subordinate(text: &str, name: &str, uid: u32) -> Option<IdMapRange> {
    let number = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.split(':').map(str::trim);
        let owner = fields
            .next()
            .filter(|owner| *owner == number || (*owner == name && !name.is_empty()));
        let (Some(_), Some(start), Some(count)) = (owner, fields.next(), fields.next()) else {
            return None;
        };
        let range = IdMapRange {
            inside: 1,
            outside: start.parse().ok()?,
            count: count.parse().ok()?,
        };
        (range.count > 0).then_some(range)
    })
}

fn run_helper(pid: i32, kind: &str, ranges: &[IdMapRange]) -> Result<(), StartError> {
    let program = format!("new{kind}map");
    let numbers = ranges
        .iter()
        .flat_map(|range| [range.inside, range.outside, range.count]);
    let output = Command::new(&program)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| StartError::new(ExitKind::Unavailable, format!("cannot run {program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(StartError::new(
        ExitKind::Permission,
        format!(
            "{program} failed: {}",
            said.lines().next().unwrap_or("no message")
        ),
    ))
}

fn write_own(pid: i32, kind: &str, own: u32) -> Result<(), StartError> {
    if kind == "gid" {
        deny_setgroups(pid)?;
    }
    write_file(pid, kind, &[own_id(own)])
}

fn deny_setgroups(pid: i32) -> Result<(), StartError> {
    let path = format!("/proc/{pid}/setgroups");
    fs::write(&path, "deny").map_err(|error| failed(&path, &error))
}

fn write_file(pid: i32, kind: &str, ranges: &[IdMapRange]) -> Result<(), StartError> {
    let path = format!("/proc/{pid}/{kind}_map");
    let lines: String = ranges
        .iter()
        .map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count))
        .collect();
    fs::write(&path, lines).map_err(|error| failed(&path, &error))
}

fn failed(path: &str, error: &std::io::Error) -> StartError {
    StartError::new(
        ExitKind::Permission,
        format!(
            "cannot write {path}: {error}; the ids asked for must be yours or your subordinate ones (subuid(5))"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_range_by_name_or_number() {
        let text = "root:1:1\nalice:100000:65536\nalice:300000:1\n1001:200000:10\nbroken:x:y\nempty:5:0\n";
        let range = |outside, count| {
            Some(IdMapRange {
                inside: 1,
                outside,
                count,
            })
        };
        assert_eq!(subordinate(text, "alice", 1000), range(100_000, 65_536));
        assert_eq!(subordinate(text, "bob", 1001), range(200_000, 10));
        assert_eq!(subordinate(text, "broken", 7), None);
        assert_eq!(subordinate(text, "empty", 7), None);
        assert_eq!(subordinate(text, "", 7), None);
        assert_eq!(subordinate("", "alice", 1000), None);
    }
}
