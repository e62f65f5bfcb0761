//! What an owner has locked of an inode, beside the kernel's own account: it does not tell whose a lock is.

use airlockfs_ipc::message::FileLock;

/// The last byte there can be.
const LAST: u64 = i64::MAX as u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u64,
    /// Inclusive.
    end: u64,
    exclusive: bool,
    /// The guest's process that asked for it.
    pid: u32,
}

impl Range {
    const fn of(lock: &FileLock) -> Self {
        Self {
            start: lock.start,
            end: if lock.end < LAST { lock.end } else { LAST },
            exclusive: lock.kind == libc::F_WRLCK as u32,
            pid: lock.pid,
        }
    }

    /// Whether `before` ends where this one begins, and is of its kind.
    const fn follows(&self, before: &Self) -> bool {
        before.exclusive == self.exclusive && before.end.saturating_add(1) == self.start
    }
}

/// Locked ranges in their order: apart from each other, and those that touch of different kinds.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<Range>);

impl Ranges {
    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Notes that a lock was set, or cleared by F_UNLCK: within its range it takes the place of all others.
    pub(super) fn set(&mut self, lock: &FileLock) {
        let mut new = Range::of(lock);
        let first = self.0.partition_point(|range| range.end < new.start);
        let behind = self.0.partition_point(|range| range.start <= new.end);
        let mut before = self.0.get(first).copied().filter(|range| range.start < new.start);
        let mut after = behind
            .checked_sub(1)
            .and_then(|last| self.0.get(last).copied())
            .filter(|range| range.end > new.end);
        if let Some(before) = &mut before {
            before.end = new.start - 1;
        }
        if let Some(after) = &mut after {
            after.start = new.end + 1;
        }
        let (mut from, mut to) = (first, behind.max(first));
        let mut middle = None;
        if lock.kind != libc::F_UNLCK as u32 {
            // What touches and is of the same kind becomes one with it, so that there are no more than the kernel has.
            let left = before.or_else(|| self.0.get(from.checked_sub(1)?).copied());
            if let Some(left) = left.filter(|left| new.follows(left)) {
                new.start = left.start;
                from -= usize::from(before.take().is_none());
            }
            let right = after.or_else(|| self.0.get(to).copied());
            if let Some(right) = right.filter(|right| right.follows(&new)) {
                new.end = right.end;
                to += usize::from(after.take().is_none());
            }
            middle = Some(new);
        }
        self.0
            .splice(from..to, [before, middle, after].into_iter().flatten());
    }

    /// Who holds what is in the way of a lock of somebody else, if anything is.
    pub(super) fn in_the_way(&self, lock: &FileLock) -> Option<u32> {
        let wanted = Range::of(lock);
        let from = self.0.partition_point(|range| range.end < wanted.start);
        let rest = self.0.get(from..).unwrap_or_default().iter();
        rest.take_while(|range| range.start <= wanted.end)
            .find(|range| range.exclusive || wanted.exclusive)
            .map(|range| range.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u32 = libc::F_RDLCK as u32;
    const WRITE: u32 = libc::F_WRLCK as u32;
    const NONE: u32 = libc::F_UNLCK as u32;

    fn lock(start: u64, end: u64, kind: u32) -> FileLock {
        FileLock {
            start,
            end,
            kind,
            pid: 7,
        }
    }

    /// Against one kind for each byte.
    #[test]
    fn ranges_are_what_each_byte_says() {
        const BYTES: u64 = 24;
        let mut random = 1u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut ranges = Ranges::default();
        let mut bytes = [NONE; BYTES as usize];
        for _ in 0..20_000 {
            let (a, b) = (next(BYTES), next(BYTES));
            let (start, end) = (a.min(b), a.max(b));
            let kind = [READ, WRITE, NONE][next(3) as usize];
            ranges.set(&lock(start, end, kind));
            bytes[start as usize..=end as usize].fill(kind);
            let mut found = [NONE; BYTES as usize];
            for range in &ranges.0 {
                let kind = if range.exclusive { WRITE } else { READ };
                found[range.start as usize..=range.end as usize].fill(kind);
            }
            assert_eq!(found, bytes);
            for pair in ranges.0.windows(2) {
                let [one, two] = pair else { panic!("{pair:?}") };
                assert!(one.end < two.start && !two.follows(one), "{pair:?}");
            }
            let (a, b) = (next(BYTES), next(BYTES));
            let (start, end) = (a.min(b), a.max(b));
            let inside = &bytes[start as usize..=end as usize];
            let in_the_way = |kind| ranges.in_the_way(&lock(start, end, kind)).is_some();
            assert_eq!(in_the_way(WRITE), inside.iter().any(|&kind| kind != NONE));
            assert_eq!(in_the_way(READ), inside.contains(&WRITE));
        }
    }

    #[test]
    fn the_end_of_all_files_is_reached_from_beyond() {
        let mut ranges = Ranges::default();
        ranges.set(&lock(5, u64::MAX, WRITE));
        ranges.set(&lock(0, 4, WRITE));
        assert_eq!(ranges.len(), 1);
        assert_eq!(ranges.in_the_way(&lock(LAST, LAST, READ)), Some(7));
        ranges.set(&lock(0, LAST, NONE));
        assert_eq!(ranges.len(), 0);
    }
}
