//! One line of a system call table: which call, with which arguments, for which feature, and why.

use std::fmt;

/// What brings a rule into a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Always there.
    Base,
    /// The share may be changed (no `--readonly`).
    Write,
    /// The share may not be changed (`--readonly`).
    ReadOnly,
    /// Files may get a set-user-ID bit (no `--no-setuid`).
    SetId,
    /// They may not.
    NoSetId,
    /// Owner and group may be changed (not with `--uid` and `--gid`, which say what they are).
    Owner,
    /// Extended attributes are served (`--xattr`).
    Xattr,
    /// Extended attributes may be changed.
    XattrWrite,
    /// Flags of inodes are served (FS_IOC_GETFLAGS, FS_IOC_FSGETXATTR).
    FileFlags,
    /// Flags of inodes may be changed.
    FileFlagsWrite,
    /// Project ids may be changed (`--allow-project-ids`).
    ProjectIds,
    /// Device nodes may be made (`--allow-device-nodes`).
    DeviceNodes,
    /// Descriptors of regular files cross to the supervisor.
    Donate,
    /// Donated descriptors are written to.
    DonateWrite,
    /// Record locks are taken on the host.
    PosixLock,
    /// flock(2) locks are taken on the host.
    Flock,
    /// A forbidden call raises SIGSYS (`--seccomp trap`).
    Trap,
}

impl Feature {
    /// The name people read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Write => "write",
            Self::ReadOnly => "readonly",
            Self::SetId => "set-id",
            Self::NoSetId => "no-set-id",
            Self::Owner => "owner",
            Self::Xattr => "xattr",
            Self::XattrWrite => "xattr-write",
            Self::FileFlags => "file-flags",
            Self::FileFlagsWrite => "file-flags-write",
            Self::ProjectIds => "project-ids",
            Self::DeviceNodes => "device-nodes",
            Self::Donate => "donate",
            Self::DonateWrite => "donate-write",
            Self::PosixLock => "posix-lock",
            Self::Flock => "flock",
            Self::Trap => "trap",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much of a register the kernel looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// The low 32 bits: `int` and `unsigned int` arguments.
    Int,
    /// All 64 bits: `long` arguments.
    Long,
}

/// What a pinned argument must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// Exactly this.
    Is(u64),
    /// These bits of it (first) have this value (second).
    Bits(u64, u64),
    /// Anything but this.
    Not(u64),
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Which argument, from 0.
    pub argument: u8,
    /// How much of it counts.
    pub width: Width,
    /// What it must be.
    pub test: Test,
}

impl Pin {
    /// The `int` argument is exactly `value`.
    pub(crate) const fn int(argument: u8, value: i32) -> Self {
        Self::new(argument, Width::Int, Test::Is(value as u32 as u64))
    }

    /// Of the `int` argument's `mask` bits exactly `value` is set.
    pub(crate) const fn int_bits(argument: u8, mask: u32, value: u32) -> Self {
        Self::new(argument, Width::Int, Test::Bits(mask as u64, value as u64))
    }

    /// The `int` argument is not `value`.
    pub(crate) const fn int_not(argument: u8, value: i32) -> Self {
        Self::new(argument, Width::Int, Test::Not(value as u32 as u64))
    }

    /// The `long` argument is exactly `value`.
    pub(crate) const fn long(argument: u8, value: u64) -> Self {
        Self::new(argument, Width::Long, Test::Is(value))
    }

    /// Of the `long` argument's `mask` bits exactly `value` is set.
    pub(crate) const fn long_bits(argument: u8, mask: u64, value: u64) -> Self {
        Self::new(argument, Width::Long, Test::Bits(mask, value))
    }

    const fn new(argument: u8, width: Width, test: Test) -> Self {
        Self {
            argument,
            width,
            test,
        }
    }

    /// Whether `value`, as found in the register, passes.
    pub const fn matches(&self, value: u64) -> bool {
        let value = match self.width {
            Width::Int => value & 0xffff_ffff,
            Width::Long => value,
        };
        match self.test {
            Test::Is(wanted) => value == wanted,
            Test::Bits(mask, wanted) => value & mask == wanted,
            Test::Not(unwanted) => value != unwanted,
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.test {
            Test::Is(value) => write!(f, "arg{} == {value:#x}", self.argument),
            Test::Bits(mask, value) => write!(f, "arg{} & {mask:#x} == {value:#x}", self.argument),
            Test::Not(value) => write!(f, "arg{} != {value:#x}", self.argument),
        }
    }
}

/// A system call that is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyscallRule {
    /// Its name.
    pub name: &'static str,
    /// Its number on this architecture.
    pub number: i64,
    /// What brings it in.
    pub feature: Feature,
    /// Why it is needed.
    pub reason: &'static str,
    /// Alternatives, one of which must hold, each a list of pins that must all hold; empty: any arguments.
    pub pins: &'static [&'static [Pin]],
    /// It is answered with this error number instead of being carried out.
    pub errno: Option<i32>,
    /// What needs it, or the alternatives of its pins that no suite uses: `cargo xtask coverage` demands this.
    pub unseen: Option<&'static str>,
}

impl SyscallRule {
    /// The first alternative that lets `arguments` through; 0 for a rule without pins.
    pub fn matching(&self, arguments: &[u64; 6]) -> Option<usize> {
        let holds = |pin: &Pin| {
            arguments
                .get(usize::from(pin.argument))
                .is_some_and(|value| pin.matches(*value))
        };
        match self.pins.is_empty() {
            true => Some(0),
            false => self.pins.iter().position(|pins| pins.iter().all(holds)),
        }
    }
}

/// `SYS_read` is the call `read`.
pub(crate) const fn call_name(constant: &'static str) -> &'static str {
    constant.split_at(4).1
}

/// The first of a list that has one or none.
pub(crate) const fn first(list: &[&'static str]) -> Option<&'static str> {
    match list {
        [first, ..] => Some(first),
        [] => None,
    }
}

/// A table's line: `rule!(Feature, SYS_name, "reason")`, then alternatives of pins if there are any, then
/// `unseen: "what needs it"` where no suite uses it all.
macro_rules! rule {
    ($feature:ident, $call:ident, $reason:literal $(, [$($pin:expr),+ $(,)?])* $(, unseen: $unseen:literal)? $(,)?) => {
        $crate::rule::SyscallRule {
            name: $crate::rule::call_name(stringify!($call)),
            number: libc::$call as i64,
            feature: $crate::rule::Feature::$feature,
            reason: $reason,
            pins: &[$(&[$($pin),+]),*],
            errno: None,
            unseen: $crate::rule::first(&[$($unseen)?]),
        }
    };
}

/// A call that is answered with an error number: `refuse!(Feature, SYS_name, ENOSYS, "reason")`.
macro_rules! refuse {
    ($feature:ident, $call:ident, $errno:ident, $reason:literal) => {
        $crate::rule::SyscallRule {
            name: $crate::rule::call_name(stringify!($call)),
            number: libc::$call as i64,
            feature: $crate::rule::Feature::$feature,
            reason: $reason,
            pins: &[],
            errno: Some(libc::$errno),
            unseen: None,
        }
    };
}

pub(crate) use {refuse, rule};
