//! 7 answer: the answer is written to guest memory, and the chain put into the used ring.

use airlockfs_ipc::{Errno, ProtocolError, message::Reply, ring::BULK_SIZE};

use super::{
    group::{Group, Round},
    value::{Answer, Request},
};
use crate::{
    fuse::{self, OUT_HEADER_LEN, ReplyShape},
    guest_io,
    guest_memory::{BadAddress, Memory},
    shared::FailureReason,
};

/// Why an answer was not written.
enum Fault {
    /// The chain has no room for it, or the VMM took that memory away meanwhile.
    NoRoom,
    /// The worker broke the rules.
    Violation(ProtocolError),
}

impl From<BadAddress> for Fault {
    fn from(_: BadAddress) -> Self {
        Self::NoRoom
    }
}

impl From<ProtocolError> for Fault {
    fn from(error: ProtocolError) -> Self {
        Self::Violation(error)
    }
}

impl Answer<'_> {
    pub(super) const NO_ROOM: Self = Self::Malformed("no room for the answer", None);
}

/// Answers a request, which is over then.
pub(super) fn answer(
    mut request: Box<Request>,
    answer: Answer<'_>,
    group: &mut Group,
    round: &mut Round<'_>,
) {
    let memory = round.memory;
    let answer = match answer {
        Answer::Lock(errno) => {
            let queue = group.queues.get_mut(usize::from(request.head.queue));
            let Some(awake) = queue.and_then(|queue| queue.hold(request, errno)) else {
                return;
            };
            request = awake;
            errno.map_or(Answer::Done, Answer::Error)
        }
        answer => answer,
    };
    let mut written = match answer {
        Answer::Nothing => Ok(0),
        Answer::Done | Answer::Lock(_) => done(&request, memory),
        Answer::Error(errno) => error(&request, errno, memory),
        Answer::Malformed(why, errno) => {
            group.malformed(request.head, why);
            errno.map_or(Ok(0), |errno| error(&request, errno, memory))
        }
        Answer::Init(outcome) => {
            let length = fuse::reply::init(&outcome, request.unique, &mut round.buffers.head);
            let head = round.buffers.head.get(..length).unwrap_or_default();
            write(&request, head, 0, memory)
        }
        Answer::Reply(reply) => of_worker(&request, reply, group, round),
        Answer::Moved => moved(&request, group, round),
        Answer::Violation(violation) => Err(Fault::Violation(violation)),
    };
    if let Err(Fault::Violation(violation)) = written {
        group.shared.failure.set(FailureReason::Violation(violation));
        written = error(&request, Errno::EIO, memory);
    }
    let length = written.unwrap_or_else(|_| {
        group.malformed(request.head, "no room for the answer");
        0
    });
    group.put_used(request.head, length);
    group.over(request);
}

/// Writes `head`, behind which `body` bytes stand already. How many there are.
fn write(request: &Request, head: &[u8], body: usize, memory: &Memory) -> Result<usize, Fault> {
    request.chain.writable.write(memory, 0, head)?;
    Ok(head.len() + body)
}

fn done(request: &Request, memory: &Memory) -> Result<usize, Fault> {
    write(request, &fuse::reply::header(request.unique, 0), 0, memory)
}

fn error(request: &Request, errno: Errno, memory: &Memory) -> Result<usize, Fault> {
    write(request, &fuse::reply::error(request.unique, errno), 0, memory)
}

/// A file operation's, whose data stands behind the header already.
fn moved(request: &Request, group: &mut Group, round: &mut Round<'_>) -> Result<usize, Fault> {
    let Some(reply) = &request.reply else {
        return error(request, Errno::EIO, round.memory);
    };
    if let Reply::Data { size } | Reply::Written { size } = *reply {
        group.schedule.moved(size);
    }
    let Some(session) = group.session.of(&group.shared.session) else {
        return error(request, Errno::EIO, round.memory);
    };
    let head = &mut round.buffers.head;
    let shape = (request.row.reply, request.limit);
    match fuse::reply::encode(shape, reply, request.unique, session, head) {
        Ok(encoded) => {
            let head = head.get(..encoded.head).unwrap_or_default();
            write(request, head, encoded.bulk, round.memory)
        }
        // Not the worker's doing, and impossible while both sides of it are right.
        Err(_) => error(request, Errno::EIO, round.memory),
    }
}

/// What the worker says, as the guest reads it.
fn of_worker(
    request: &Request,
    reply: &Reply<'_>,
    group: &mut Group,
    round: &mut Round<'_>,
) -> Result<usize, Fault> {
    let plus = match request.row.reply {
        ReplyShape::Dirents => Some(false),
        ReplyShape::DirentsPlus => Some(true),
        _ => None,
    };
    if let (Some(plus), Reply::Entries { size }) = (plus, *reply) {
        return entries(request, plus, size as usize, group, round);
    }
    let Some(session) = group.session.of(&group.shared.session) else {
        // DESTROY overtook it.
        return error(request, Errno::EIO, round.memory);
    };
    let head = &mut round.buffers.head;
    let shape = (request.row.reply, request.limit);
    let encoded = fuse::reply::encode(shape, reply, request.unique, session, head)?;
    if encoded.bulk > 0 {
        let bulk = request
            .bulk
            .as_ref()
            .ok_or(ProtocolError("data without a buffer"))?;
        if encoded.bulk > BULK_SIZE {
            return Err(ProtocolError("more data than a buffer holds").into());
        }
        let (buffer, to) = (group.lane.ring.bulk(bulk), &request.chain.writable);
        guest_io::bulk_to_guest(&buffer, round.memory, to, encoded.head, encoded.bulk)?;
    }
    let head = head.get(..encoded.head).unwrap_or_default();
    write(request, head, encoded.bulk, round.memory)
}

/// `size` bytes of directory entries.
fn entries(
    request: &Request,
    plus: bool,
    size: usize,
    group: &mut Group,
    round: &mut Round<'_>,
) -> Result<usize, Fault> {
    let Some(session) = group.session.of(&group.shared.session) else {
        return error(request, Errno::EIO, round.memory);
    };
    let writable = &request.chain.writable;
    let bulk = request
        .bulk
        .as_ref()
        .ok_or(ProtocolError("data without a buffer"))?;
    let most = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let most = most
        .min(writable.len().saturating_sub(OUT_HEADER_LEN))
        .min(BULK_SIZE);
    let (from, to) = (&mut round.buffers.entries, &mut round.buffers.records);
    grow(from, size.min(BULK_SIZE));
    grow(to, most);
    let (Some(from), Some(to)) = (from.get_mut(..size), to.get_mut(..most)) else {
        return Err(ProtocolError("more directory entries than a buffer holds").into());
    };
    // Copied before they are looked at.
    group.lane.ring.bulk(bulk).copy_to_slice(0, from);
    let body = fuse::dirent::encode(from, plus, &session.options.cache, to)?;
    let records = to.get(..body).ok_or(Fault::NoRoom)?;
    writable.write(round.memory, OUT_HEADER_LEN, records)?;
    write(
        request,
        &fuse::reply::header(request.unique, body),
        body,
        round.memory,
    )
}

fn grow(buffer: &mut Vec<u8>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
}
