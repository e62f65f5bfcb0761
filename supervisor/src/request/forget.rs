//! BATCH_FORGET longer than any other request (a guest that drops a million inodes at once): its records are taken in
//! pieces, as the worker gets through them, and the other requests of the group go on in between.

use super::{
    group::Group,
    lane::FORGETS,
    value::{Answer, Batch, Next, Request},
};
use crate::guest_memory::Memory;

/// Bytes of records taken at a time: eight messages, of a lane's 128.
const PIECE: usize = 8 * FORGETS;

/// Begins with one of `length` bytes of records.
pub(super) fn begin(request: Box<Request>, length: usize, group: &mut Group) -> Next<'static> {
    if group.batch.is_some() {
        return Next::Stay(request);
    }
    group.batch = Some(Batch {
        request,
        left: length,
    });
    Next::Away
}

/// Takes the next piece, if the one before is sent. Each byte is read once.
pub(super) fn go_on(group: &mut Group, memory: &Memory) -> Option<Next<'static>> {
    let forgets = &mut group.lane.forgets;
    let failed = group.shared.failure.is_set();
    if !failed && !forgets.is_empty() {
        return None;
    }
    let Batch { mut request, left } = group.batch.take()?;
    if failed {
        return Some(Next::Answer(request, Answer::Nothing));
    }
    let piece = left.min(PIECE);
    forgets.resize(piece, 0);
    let read = request.chain.readable.read(memory, request.data_at, forgets);
    if read.is_err() {
        // The VMM took that memory away meanwhile.
        forgets.clear();
        let why = "its records are not in guest memory";
        return Some(Next::Answer(request, Answer::Malformed(why, None)));
    }
    if let Some(handles) = &group.shared.handles {
        handles.forgotten(forgets);
    }
    request.data_at += piece;
    if left == piece {
        return Some(Next::Answer(request, Answer::Nothing));
    }
    let left = left - piece;
    group.batch = Some(Batch { request, left });
    Some(Next::Away)
}
