//! User and group ids between guest and host: `--translate-uid` and `--translate-gid`.

use airlockfs_ipc::{
    Errno,
    message::{IdRange, IdRangeKind},
};

/// A translation of user ids or of group ids. What no range names stays as it is.
#[derive(Debug, Default)]
pub(crate) struct IdMap {
    ranges: Vec<IdRange>,
}

/// `id` moved from the range that begins at `from` to the one that begins at `to`; `None` if it is not in it.
fn shift(id: u32, from: u32, to: u32, count: u32) -> Option<Result<u32, Errno>> {
    let distance = id.checked_sub(from).filter(|&distance| distance < count)?;
    Some(to.checked_add(distance).ok_or(Errno::EOVERFLOW))
}

impl IdMap {
    /// The first range that names an id counts.
    pub(crate) const fn new(ranges: Vec<IdRange>) -> Self {
        Self { ranges }
    }

    /// Whether every id stays as it is.
    pub(crate) const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The host's id for a guest's. EPERM for a forbidden one; EINVAL for -1, which means 'no id' to the kernel.
    pub(crate) fn to_host(&self, guest: u32) -> Result<u32, Errno> {
        let mut found = self.ranges.iter().filter_map(|range| {
            let IdRange { from, to, count, .. } = *range;
            match range.kind {
                IdRangeKind::Guest | IdRangeKind::Map => shift(guest, from, to, count),
                IdRangeKind::SquashGuest => shift(guest, from, 0, count).map(|_| Ok(to)),
                IdRangeKind::ForbidGuest => shift(guest, from, 0, count).map(|_| Err(Errno::EPERM)),
                IdRangeKind::Host | IdRangeKind::SquashHost => None,
            }
        });
        match found.next().unwrap_or(Ok(guest))? {
            u32::MAX => Err(Errno::EINVAL),
            host => Ok(host),
        }
    }

    /// The guest's id for a host's; none if ranges say which host ids the guest knows, and this is not among them.
    pub(crate) fn known_to_guest(&self, host: u32) -> Option<u32> {
        let mut found = self.ranges.iter().filter_map(|range| {
            let IdRange { from, to, count, .. } = *range;
            match range.kind {
                IdRangeKind::Host => shift(host, from, to, count)?.ok(),
                IdRangeKind::Map => shift(host, to, from, count)?.ok(),
                IdRangeKind::SquashHost => shift(host, from, 0, count).map(|_| to),
                IdRangeKind::Guest | IdRangeKind::SquashGuest | IdRangeKind::ForbidGuest => None,
            }
        });
        let from_host = |range: &IdRange| {
            matches!(
                range.kind,
                IdRangeKind::Host | IdRangeKind::Map | IdRangeKind::SquashHost
            )
        };
        found
            .next()
            .or_else(|| (!self.ranges.iter().any(from_host)).then_some(host))
    }
}

/// The ids that exist in this process's user namespace, as in `/proc/self/uid_map` (user_namespaces(7)).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mapped(Vec<(u32, u32)>);

impl Mapped {
    /// Reads the file's text. Lines that are not understood map nothing.
    pub(crate) fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
            let (first, _, count) = (numbers.next()?.ok()?, numbers.next()?, numbers.next()?.ok()?);
            Some((first, count))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// Whether `id` exists.
    pub(crate) fn contains(&self, id: u32) -> bool {
        let within =
            |&(first, count): &(u32, u32)| id.checked_sub(first).is_some_and(|distance| distance < count);
        self.0.iter().any(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl IdMap {
        fn to_guest(&self, host: u32) -> u32 {
            self.known_to_guest(host).unwrap_or(host)
        }
    }

    fn range(kind: IdRangeKind, from: u32, to: u32, count: u32) -> IdRange {
        IdRange {
            kind,
            from,
            to,
            count,
        }
    }

    #[test]
    fn without_ranges_ids_stay() {
        let map = IdMap::default();
        for id in [0, 1000, u32::MAX - 1] {
            assert_eq!((map.to_host(id), map.to_guest(id)), (Ok(id), id));
        }
        assert_eq!(map.to_host(u32::MAX), Err(Errno::EINVAL));
    }

    #[test]
    fn one_way_ranges_go_one_way() {
        let map = IdMap::new(vec![
            range(IdRangeKind::Guest, 0, 1000, 10),
            range(IdRangeKind::Host, 5000, 7, 1),
        ]);
        assert_eq!(
            (map.to_host(0), map.to_host(9), map.to_host(10)),
            (Ok(1000), Ok(1009), Ok(10))
        );
        assert_eq!(
            (map.to_guest(1000), map.to_guest(5000), map.to_guest(5001)),
            (1000, 7, 5001)
        );
    }

    #[test]
    fn a_map_goes_both_ways() {
        let map = IdMap::new(vec![range(IdRangeKind::Map, 0, 100_000, 65_536)]);
        assert_eq!(
            (map.to_host(65_535), map.to_guest(165_535)),
            (Ok(165_535), 65_535)
        );
        assert_eq!(
            (map.to_host(65_536), map.to_guest(165_536)),
            (Ok(65_536), 165_536)
        );
    }

    #[test]
    fn what_the_guest_does_not_know_is_said_only_where_ranges_say_what_it_knows() {
        let one_way = IdMap::new(vec![range(IdRangeKind::Guest, 0, 1000, 10)]);
        assert_eq!(one_way.known_to_guest(5), Some(5));
        let both = IdMap::new(vec![range(IdRangeKind::Map, 0, 1000, 10)]);
        assert_eq!(
            (both.known_to_guest(5), both.known_to_guest(1005)),
            (None, Some(5))
        );
    }

    #[test]
    fn squashing_and_forbidding() {
        let map = IdMap::new(vec![
            range(IdRangeKind::ForbidGuest, 0, 0, 1),
            range(IdRangeKind::SquashGuest, 0, 1001, u32::MAX),
            range(IdRangeKind::SquashHost, 0, 65_534, 1000),
        ]);
        assert_eq!(map.to_host(0), Err(Errno::EPERM));
        assert_eq!((map.to_host(1), map.to_host(u32::MAX - 1)), (Ok(1001), Ok(1001)));
        assert_eq!((map.to_guest(999), map.to_guest(1000)), (65_534, 1000));
    }

    #[test]
    fn ranges_at_the_end_of_the_numbers_do_not_wrap() {
        let map = IdMap::new(vec![range(IdRangeKind::Map, 10, u32::MAX - 1, 100)]);
        assert_eq!(map.to_host(10), Ok(u32::MAX - 1));
        assert_eq!(map.to_host(11), Err(Errno::EINVAL));
        assert_eq!(map.to_host(12), Err(Errno::EOVERFLOW));
    }

    #[test]
    fn maps_of_user_namespaces_are_read() {
        let map = Mapped::parse("         0       1000          1\n         1     100000      65536\n");
        assert!(map.contains(0) && map.contains(65_536) && !map.contains(65_537));
        assert!(Mapped::parse("0 0 4294967295").contains(u32::MAX - 1));
        assert_eq!(Mapped::parse("junk\n1 2\n"), Mapped(vec![]));
    }
}
