//! Room for listing directories. What was read of one and not yet handed out is kept until the next request for it, in
//! one of a few places: a guest may open any number of directories and read each halfway. The oldest gives up its place,
//! and is read from there again when somebody asks.

use std::{
    collections::VecDeque,
    mem,
    sync::{Mutex, PoisonError},
};

use airlockfs_ipc::Errno;

/// Bytes read from the kernel at once: some 800 entries.
const READ_AHEAD: usize = 32 << 10;
/// Listings that are kept: 2 MiB.
const KEPT: usize = 64;
/// Buffers kept for the next listings.
const SPARE: usize = 8;

/// Records of a directory that were not handed out.
#[derive(Default)]
pub(crate) struct Unread {
    records: Vec<u8>,
    start: usize,
    end: usize,
}

impl Unread {
    /// They were all handed out.
    pub(crate) const fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// The records.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.records.get(self.start..self.end).unwrap_or_default()
    }

    /// The first `length` bytes of them are handed out.
    pub(crate) const fn take(&mut self, length: usize) {
        self.start += length;
    }

    /// None of them is wanted.
    pub(crate) const fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Has `read` put records where all were handed out. False: there are no more.
    pub(crate) fn refill(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<bool, Errno> {
        self.clear();
        self.end = read(&mut self.records)?;
        Ok(self.end > 0)
    }
}

/// What a listing is found by that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// All of them.
#[derive(Default)]
pub(crate) struct Listings(Mutex<State>);

#[derive(Default)]
struct State {
    spare: Vec<Vec<u8>>,
    /// The oldest first.
    kept: VecDeque<(Ticket, Unread)>,
    tickets: u64,
}

impl State {
    fn give_back(&mut self, records: Vec<u8>) {
        if self.spare.len() < SPARE && !records.is_empty() {
            self.spare.push(records);
        }
    }
}

impl Listings {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for records.
    pub(crate) fn begin(&self) -> Unread {
        let spare = self.state().spare.pop();
        Unread {
            records: spare.unwrap_or_else(|| vec![0; READ_AHEAD]),
            ..Unread::default()
        }
    }

    /// It is not needed any more.
    pub(crate) fn end(&self, unread: Unread) {
        self.state().give_back(unread.records);
    }

    /// Keeps records for later, if nobody needs the place before.
    pub(crate) fn keep(&self, unread: Unread) -> Ticket {
        let mut state = self.state();
        if state.kept.len() >= KEPT
            && let Some((_, oldest)) = state.kept.pop_front()
        {
            state.give_back(oldest.records);
        }
        state.tickets += 1;
        let ticket = Ticket(state.tickets);
        state.kept.push_back((ticket, unread));
        ticket
    }

    /// What was kept, if it still is.
    pub(crate) fn resume(&self, ticket: Ticket) -> Option<Unread> {
        let mut state = self.state();
        let place = state.kept.iter().rposition(|(kept, _)| *kept == ticket)?;
        state.kept.remove(place).map(|(_, unread)| unread)
    }

    /// Nothing is kept any more.
    pub(crate) fn clear(&self) {
        let all = mem::take(&mut self.state().kept);
        drop(all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(listings: &Listings, length: usize) -> Unread {
        let mut unread = listings.begin();
        assert_eq!(unread.refill(|room| Ok(length.min(room.len()))), Ok(true));
        unread
    }

    #[test]
    fn few_listings_are_kept_and_the_oldest_goes() {
        let listings = Listings::default();
        let tickets: Vec<_> = (1..=KEPT + 1)
            .map(|length| listings.keep(records(&listings, length)))
            .collect();
        assert!(listings.resume(tickets[0]).is_none());
        let unread = listings.resume(tickets[1]).unwrap();
        assert_eq!(unread.bytes().len(), 2);
        assert!(listings.resume(tickets[1]).is_none(), "it was taken");
        listings.end(unread);
        assert!(listings.resume(tickets[KEPT]).is_some());
        listings.clear();
        assert!(tickets.iter().all(|ticket| listings.resume(*ticket).is_none()));
    }

    #[test]
    fn buffers_go_round() {
        let listings = Listings::default();
        let unread = records(&listings, 9);
        let place = unread.bytes().as_ptr();
        listings.end(unread);
        assert_eq!(records(&listings, 9).bytes().as_ptr(), place);
    }
}
