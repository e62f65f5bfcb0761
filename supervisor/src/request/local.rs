//! 3 local: an operation on a donated file is carried out, at once, by a data thread, or by the worker where this process may
//! not.

use airlockfs_ipc::Errno;

use super::{
    group::Group,
    route::to_worker,
    value::{Answer, Next, Request},
};
use crate::{
    data::{Attempt, attempt},
    guest_memory::Memory,
};

/// Carries the operation out on the request's file.
pub(super) fn local(mut request: Box<Request>, group: &mut Group, memory: &Memory) -> Next<'static> {
    // The worker may begin with what was submitted while this thread moves data.
    group.lane.ring.flush();
    let Some(file) = &request.file else {
        return Next::Answer(request, Answer::Error(Errno::EIO));
    };
    let queue = request.head.queue;
    let given_up = group.completions.given_up().count(queue);
    let attempted = attempt(request.operation, file, memory, &request.chain, request.data_at);
    if group.completions.given_up().count(queue) != given_up {
        // A call that should not wait did, and the VMM did not.
        return Next::Drop(request);
    }
    match attempted {
        Attempt::Done(reply) => {
            request.reply = Some(reply);
            Next::Answer(request, Answer::Moved)
        }
        Attempt::WouldWait(done) => {
            (request.done, request.given_up) = (done, given_up);
            group.jobs.enter(&mut request);
            group.shared.pool.submit(request, &group.completions);
            Next::Away
        }
        Attempt::Denied(done) => {
            request.done = done;
            denied(request, group, memory)
        }
    }
}

/// A data thread is done with it.
pub(super) fn finished(request: Box<Request>, group: &mut Group, memory: &Memory) -> Next<'static> {
    if !group.jobs.done(&request) {
        // Nobody waits for it, and its chain is not the device's any more.
        group.spare.keep(request);
        return Next::Away;
    }
    match request.reply {
        Some(_) => Next::Answer(request, Answer::Moved),
        None => denied(request, group, memory),
    }
}

/// This process may not. The worker is asked for it, and for all that follows on this handle.
fn denied(request: Box<Request>, group: &mut Group, memory: &Memory) -> Next<'static> {
    if let Some(handles) = &group.shared.handles {
        handles.refused(request.operation.handle());
    }
    resume(request, group, memory)
}

/// Gives the worker what this process may not do, if the lane has room.
pub(super) fn resume(mut request: Box<Request>, group: &mut Group, memory: &Memory) -> Next<'static> {
    if request.operation.size().is_some() && request.bulk.is_none() && group.lane.has_slot() {
        request.bulk = group.lane.ring.take_bulk();
    }
    let has_room = request.bulk.is_some() || request.operation.size().is_none();
    match has_room && group.lane.has_slot() {
        true => to_worker(request, group, memory),
        false => Next::Wait(request),
    }
}
