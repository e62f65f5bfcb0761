//! Id ranges on the command line, in virtiofsd's notations.

use airlockfs_ipc::message::{IdRange, IdRangeKind};
use airlockfs_policy::IdMapRange;

/// `--supervisor-uid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupervisorUid {
    /// This one, whoever else has it.
    This(u32),
    /// One of these that nobody else has.
    OneOf {
        /// The first.
        first: u32,
        /// How many, at least 1.
        count: u32,
    },
}

/// Those that systemd takes dynamic users from, and no distribution gives to anybody (systemd's UIDS-GIDS.md). They are there
/// in a user namespace of 65,536 ids, too.
pub const DYNAMIC: SupervisorUid = SupervisorUid::OneOf {
    first: 61_184,
    count: 4_336,
};

/// The user whom the kernel shows for those that are not there (proc_sys_kernel(5), overflowuid).
pub const NOBODY: u32 = 65_534;

impl SupervisorUid {
    /// Whether it may be this one.
    pub fn contains(self, uid: u32) -> bool {
        match self {
            Self::This(this) => uid == this,
            Self::OneOf { first, count } => uid.checked_sub(first).is_some_and(|at| at < count),
        }
    }
}

/// `:INSIDE:OUTSIDE:COUNT:`, any delimiter.
pub(crate) fn namespace_range(text: &str) -> Result<IdMapRange, String> {
    let wrong = || format!("'{text}' is not of the form :INSIDE:OUTSIDE:COUNT:");
    let delimiter = text
        .chars()
        .next()
        .filter(|first| !first.is_ascii_digit())
        .ok_or_else(wrong)?;
    let numbers = text
        .trim_matches(delimiter)
        .split(delimiter)
        .map(str::parse)
        .collect::<Result<Vec<u32>, _>>();
    match numbers.map_err(|_| wrong())?.as_slice() {
        &[inside, outside, count] if fits(inside, count) && fits(outside, count) => Ok(IdMapRange {
            inside,
            outside,
            count,
        }),
        _ => Err(wrong()),
    }
}

/// `KIND:FROM:TO:COUNT`; `forbid-guest:FROM:COUNT`.
pub(crate) fn translation(text: &str) -> Result<IdRange, String> {
    let wrong = || {
        format!(
            "'{text}' is not of the form KIND:FROM:TO:COUNT with KIND one of guest, host, squash-guest, squash-host, \
             map, or forbid-guest:FROM:COUNT"
        )
    };
    let (kind, numbers) = text.split_once(':').ok_or_else(wrong)?;
    let numbers = numbers
        .split(':')
        .map(str::parse)
        .collect::<Result<Vec<u32>, _>>()
        .map_err(|_| wrong())?;
    let (kind, numbers) = match (kind, numbers.as_slice()) {
        ("forbid-guest", &[from, count]) => (IdRangeKind::ForbidGuest, [from, from, count]),
        ("guest", &[from, to, count]) => (IdRangeKind::Guest, [from, to, count]),
        ("host", &[from, to, count]) => (IdRangeKind::Host, [from, to, count]),
        ("squash-guest", &[from, to, count]) => (IdRangeKind::SquashGuest, [from, to, count]),
        ("squash-host", &[from, to, count]) => (IdRangeKind::SquashHost, [from, to, count]),
        ("map", &[from, to, count]) => (IdRangeKind::Map, [from, to, count]),
        _ => return Err(wrong()),
    };
    let [from, to, count] = numbers;
    let squashed = matches!(kind, IdRangeKind::SquashGuest | IdRangeKind::SquashHost);
    if fits(from, count) && fits(to, if squashed { 1 } else { count }) {
        Ok(IdRange {
            kind,
            from,
            to,
            count,
        })
    } else {
        Err(wrong())
    }
}

/// `FIRST:COUNT`, or one id. Root's is none of them.
pub(crate) fn supervisor_uid(text: &str) -> Result<SupervisorUid, String> {
    let wrong = || format!("'{text}' is neither FIRST:COUNT nor a user id, or it holds root's");
    let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
    match text.split_once(':') {
        Some((first, count)) => {
            let (first, count) = (number(first)?, number(count)?);
            let sound = first > 0 && fits(first, count);
            sound
                .then_some(SupervisorUid::OneOf { first, count })
                .ok_or_else(wrong)
        }
        None => {
            let id = number(text)?;
            let sound = id > 0 && fits(id, 1);
            sound.then_some(SupervisorUid::This(id)).ok_or_else(wrong)
        }
    }
}

/// Ids end at 2³² − 2; the last one means 'none'.
fn fits(first: u32, count: u32) -> bool {
    count > 0 && first.checked_add(count).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_nonsense_is_refused() {
        let range = IdMapRange {
            inside: 0,
            outside: 100_000,
            count: 65_536,
        };
        assert_eq!(namespace_range(":0:100000:65536:"), Ok(range));
        assert_eq!(namespace_range("/0/100000/65536/"), Ok(range));
        for bad in [
            "",
            ":",
            "0:1:2",
            ":0:1:",
            ":0:1:0:",
            ":4294967295:0:1:",
            ":0:1:x:",
            ":0:1:2:3:",
        ] {
            assert!(namespace_range(bad).is_err(), "{bad}");
        }
        assert_eq!(
            translation("squash-guest:0:1000:65536"),
            Ok(IdRange {
                kind: IdRangeKind::SquashGuest,
                from: 0,
                to: 1000,
                count: 65_536
            })
        );
        assert!(translation("forbid-guest:0:10").is_ok());
        for bad in [
            "map:0:0",
            "guest:0:4294967295:1",
            "x:0:0:1",
            "map",
            "forbid-guest:0:0:1",
        ] {
            assert!(translation(bad).is_err(), "{bad}");
        }
    }
}
