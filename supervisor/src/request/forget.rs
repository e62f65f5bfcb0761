//! BATCH_FORGET longer than any other request (a guest that drops a million inodes at once): its records are taken in
//! pieces, as the worker gets through them, and the other requests of the group go on in between.

use super::{
    Group, Round,
    lane::FORGETS,
    value::{Answer, Next, Request},
};

/// Bytes of records taken at a time: eight messages, of a lane's 128.
const PIECE: usize = 8 * FORGETS;

/// One that was taken in part. Its chain is the device's until all of it is.
#[derive(Debug)]
pub(super) struct Batch {
    request: Box<Request>,
    /// Bytes of records that were not taken yet.
    left: usize,
}

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
pub(super) fn go_on(group: &mut Group, round: &mut Round<'_>) -> bool {
    let Some(Batch { mut request, left }) = group.batch.take() else {
        return false;
    };
    let forgets = &mut group.lane.forgets;
    let next = if group.shared.failure.is_set() {
        Next::Answer(request, Answer::Nothing)
    } else if !forgets.is_empty() {
        group.batch = Some(Batch { request, left });
        return false;
    } else {
        let piece = left.min(PIECE);
        forgets.resize(piece, 0);
        let read = request
            .chain
            .readable
            .read(round.memory, request.data_at, forgets);
        request.data_at += piece;
        if read.is_err() {
            // The VMM took that memory away meanwhile.
            forgets.clear();
            let why = "its records are not in guest memory";
            Next::Answer(request, Answer::Malformed(why, None))
        } else {
            if let Some(handles) = &group.shared.handles {
                handles.forgotten(forgets);
            }
            match left - piece {
                0 => Next::Answer(request, Answer::Nothing),
                left => {
                    group.batch = Some(Batch { request, left });
                    return true;
                }
            }
        }
    };
    group.drive(next, round);
    true
}

/// Gives up what is left of it.
pub(super) fn end(group: &mut Group) {
    if let Some(batch) = group.batch.take() {
        group.put_used(batch.request.head, 0);
        group.spare.keep(batch.request);
    }
}
