//! 6 complete: the worker's reply is taken, and checked against what was asked.

use airlockfs_ipc::{
    Handle, ProtocolError,
    message::{FileOperation, Reply},
    ring::SlotId,
};

use super::{
    donation, given_up,
    group::{Group, Round},
    pending::Pending,
    route::to_worker,
    value::{Answer, Awaits, Next, Request},
};
use crate::{
    data::Access,
    fuse::{Follows, InitOutcome, OUT_HEADER_LEN},
    guest_io,
    guest_memory::Memory,
    shared::Shared,
};

/// Takes the reply in a slot. An error is the worker's, and no request is left that it belongs to.
pub(super) fn complete<'r>(
    slot: SlotId,
    reply: &'r Reply<'r>,
    group: &mut Group,
    round: &mut Round<'_>,
) -> Result<Next<'r>, ProtocolError> {
    let mut request = match group.lane.pending.take(slot) {
        Pending::Request(request) if request.late => {
            return given_up::came_late(request, reply, group, round.buffers).map(|()| Next::Away);
        }
        Pending::Request(request) => request,
        Pending::GivenUp => return Ok(Next::Away),
        Pending::Clean => return is_done(reply).map(|()| Next::Away),
        Pending::Unawaited => {
            return match reply {
                Reply::Done | Reply::Error(_) => Ok(Next::Away),
                _ => Err(ProtocolError("another answer than done")),
            };
        }
        Pending::Free => return Err(ProtocolError("a reply to no request")),
    };
    Ok(match request.awaits {
        Awaits::Answer => {
            follow(&request, reply, &group.shared);
            Next::Answer(request, Answer::Reply(reply))
        }
        Awaits::Data(piece) => data(request, piece, reply, group, round.memory),
        Awaits::Donation(access) => donation::came(request, access, reply, group, round.memory),
        Awaits::Lock => {
            let answer = match *reply {
                Reply::Done => Answer::Lock(None),
                Reply::Error(errno) => Answer::Lock(Some(errno)),
                _ => Answer::Violation(ProtocolError("another answer than a lock")),
            };
            Next::Answer(request, answer)
        }
        Awaits::StaleLock => {
            group.over(request);
            Next::Away
        }
        Awaits::Begin(negotiated) => {
            let answer = match is_done(reply) {
                Ok(()) => {
                    group.shared.session.run(negotiated);
                    Answer::Init(Box::new(InitOutcome::Accepted(negotiated)))
                }
                Err(error) => Answer::Violation(error),
            };
            request.awaits = Awaits::Answer;
            Next::Answer(request, answer)
        }
        Awaits::End => {
            let answer = is_done(reply).map_or_else(Answer::Violation, |()| Answer::Done);
            Next::Answer(request, answer)
        }
    })
}

fn is_done(reply: &Reply<'_>) -> Result<(), ProtocolError> {
    match reply {
        Reply::Done => Ok(()),
        _ => Err(ProtocolError("a reset was not done")),
    }
}

/// What success means for the handle table.
fn follow(request: &Request, reply: &Reply<'_>, shared: &Shared) {
    let Some(handles) = &shared.handles else {
        return;
    };
    match (request.row.follows, opened(reply)) {
        (Follows::Opened, Some(handle)) => handles.opened(handle, Access::of_flags(request.mode)),
        (Follows::OpenedDirectory, Some(handle)) => handles.opened_directory(handle),
        (Follows::ModeChanged, _) if request.mode & (libc::S_ISUID | libc::S_ISGID) != 0 => {
            handles.mode_changed();
        }
        _ => {}
    }
}

/// The handle that a reply opened.
fn opened(reply: &Reply<'_>) -> Option<Handle> {
    match *reply {
        Reply::Opened { handle } | Reply::Created { handle, .. } => Some(handle),
        _ => None,
    }
}

/// A piece of a READ's or WRITE's data went through the ring.
fn data(
    mut request: Box<Request>,
    piece: u32,
    reply: &Reply<'_>,
    group: &mut Group,
    memory: &Memory,
) -> Next<'static> {
    let operation = request.operation;
    let result = match (operation, *reply) {
        (FileOperation::Read { .. }, Reply::Data { size })
        | (FileOperation::Write { .. }, Reply::Written { size })
            if size <= piece =>
        {
            Ok(size)
        }
        (_, Reply::Error(errno)) => Err(errno),
        _ => {
            let violation = ProtocolError("another answer than data");
            return Next::Answer(request, Answer::Violation(violation));
        }
    };
    let moved = result.unwrap_or(0);
    if let (FileOperation::Read { .. }, Some(bulk), 1..) = (operation, &request.bulk, moved) {
        let (buffer, to) = (group.lane.ring.bulk(bulk), &request.chain.writable);
        let skip = OUT_HEADER_LEN + request.done;
        if guest_io::bulk_to_guest(&buffer, memory, to, skip, moved as usize).is_err() {
            return Next::Answer(request, Answer::NO_ROOM);
        }
    }
    let before = request.done;
    request.done += moved as usize;
    // At most what the operation says in 32 bits.
    let done = request.done as u32;
    if moved == piece && moved > 0 && operation.size().is_some_and(|size| done < size) {
        // Only a READ is larger than a buffer.
        return to_worker(request, group, memory);
    }
    request.reply = Some(match (result, operation) {
        (Err(errno), _) if before == 0 => Reply::Error(errno),
        (_, FileOperation::Read { .. }) => Reply::Data { size: done },
        _ => Reply::Written { size: done },
    });
    Next::Answer(request, Answer::Moved)
}
