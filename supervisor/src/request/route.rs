//! 3 route: what a request asks for is done here, by the worker, or answered at once.

use airlockfs_ipc::{
    Errno, Handle,
    message::{self, FileOperation},
    recycle,
    ring::BULK_SIZE,
};

use super::{
    forget,
    group::Group,
    value::{Answer, Awaits, Next, Request},
};
use crate::{
    data::{DonatedFile, Route},
    fuse::{self, InitOutcome, Operation, ReplyShape},
    guest_io,
    guest_memory::Memory,
    session::Begin,
};

/// Sorts a request by what it asks for.
pub(super) fn route<'c>(
    request: Box<Request>,
    operation: &Operation<'c>,
    group: &mut Group,
    memory: &Memory,
) -> Next<'c> {
    group.schedule.took(matches!(
        operation,
        Operation::Forget(_) | Operation::ForgetBatch { .. }
    ));
    match *operation {
        Operation::Interrupt { unique } => interrupt(request, unique, group),
        Operation::Forget(forgets) => {
            group.lane.forgets.extend_from_slice(forgets.as_bytes());
            if let Some(handles) = &group.shared.handles {
                handles.forgotten(forgets.as_bytes());
            }
            Next::Answer(request, Answer::Nothing)
        }
        Operation::ForgetBatch { length } => forget::begin(request, length, group),
        _ if group.shared.failure.is_set() => Next::Answer(request, Answer::Error(Errno::EIO)),
        Operation::Init(asked) => init(request, &asked, group),
        Operation::Destroy => {
            group.shared.session.destroy();
            reset(request, Awaits::End, group)
        }
        Operation::File(operation) => file(request, operation, group, memory),
        Operation::Release {
            request: message,
            handle,
            unlocks,
        } => release(request, message, (handle, unlocks), group),
        Operation::WaitForLock(message) => ask(request, Awaits::Lock, message),
        Operation::Ask {
            request: message,
            value,
        } => with_value(request, message, value, group),
    }
}

fn ask<'c>(mut request: Box<Request>, awaits: Awaits, message: message::Request<'c>) -> Next<'c> {
    request.awaits = awaits;
    Next::Ask(request, message)
}

fn with_value<'c>(
    mut request: Box<Request>,
    message: message::Request<'c>,
    value: &[u8],
    group: &mut Group,
) -> Next<'c> {
    if request.row.needs_bulk(request.limit) {
        let Some(bulk) = group.lane.ring.take_bulk() else {
            return Next::Stay(request);
        };
        if !value.is_empty() {
            group.lane.ring.bulk(&bulk).copy_from_slice(0, value);
        }
        request.bulk = Some(bulk);
    }
    ask(request, Awaits::Answer, message)
}

/// Only a wait for a lock ends early; the guest gets the answer of any other request when it is done.
fn interrupt(request: Box<Request>, wait: u64, group: &mut Group) -> Next<'static> {
    let options = &group.shared.options;
    if (options.posix_lock || options.flock) && !group.shared.failure.is_set() {
        group.lane.notify(&message::Request::Interrupt { wait });
    }
    Next::Answer(request, Answer::Nothing)
}

fn init(request: Box<Request>, asked: &fuse::Init, group: &Group) -> Next<'static> {
    let shared = &group.shared;
    if !shared.session.may_begin() {
        return Next::Answer(request, Answer::Error(Errno::EIO));
    }
    let outcome = fuse::negotiate(asked, &shared.options);
    if let InitOutcome::Accepted(negotiated) = outcome {
        match shared.session.begin(negotiated) {
            Begin::Refused => return Next::Answer(request, Answer::Error(Errno::EIO)),
            Begin::ResetFirst => return reset(request, Awaits::Begin(negotiated), group),
            Begin::Running => clear_handles(group),
        }
    }
    Next::Answer(request, Answer::Init(Box::new(outcome)))
}

/// Drops all that the guest has, here and in the worker.
fn reset(request: Box<Request>, awaits: Awaits, group: &Group) -> Next<'static> {
    clear_handles(group);
    ask(request, awaits, message::Request::Reset)
}

fn clear_handles(group: &Group) {
    if let Some(handles) = &group.shared.handles {
        handles.clear();
    }
}

/// The end of a handle that is in the table cannot fail and gives the guest nothing to wait for: it is answered at once, and
/// the worker does it later. Linux does not wait for it either; where it ends locks, others do.
fn release<'c>(
    request: Box<Request>,
    message: message::Request<'c>,
    (handle, unlocks): (Handle, bool),
    group: &mut Group,
) -> Next<'c> {
    let handles = group.shared.handles.as_ref();
    let known = handles.is_some_and(|handles| handles.released(handle));
    if known && !unlocks {
        group.lane.notify(&message);
        return Next::Answer(request, Answer::Done);
    }
    ask(request, Awaits::Answer, message)
}

/// An operation on an open file goes to the donated file, if there is one and this process may.
fn file(
    mut request: Box<Request>,
    operation: FileOperation,
    group: &mut Group,
    memory: &Memory,
) -> Next<'static> {
    request.operation = operation;
    let handles = group.shared.handles.as_ref();
    let route = match operation.size() {
        Some(size) => {
            let Some(bulk) = group.lane.ring.take_bulk() else {
                // No data can go through the ring now.
                return match donated(operation, group) {
                    Some(file) => here(request, file, group),
                    None => Next::Stay(request),
                };
            };
            request.bulk = Some(bulk);
            handles.map(|handles| handles.route(operation.handle(), size))
        }
        // Attributes are asked for again and again, as data is: the second time is worth a descriptor. fstat(2) does not
        // tell what STATX asks for.
        None if request.row.reply == ReplyShape::Attr => handles
            .filter(|_| group.shared.attributes_alike)
            .map(|handles| handles.route(operation.handle(), 0)),
        None if request.row.reply == ReplyShape::Statx => None,
        // All else is done where the file is.
        None => donated(operation, group).map(Route::File),
    };
    match route {
        Some(Route::File(file)) if may_operate(operation, &file, group) => here(request, file, group),
        Some(Route::AskFirst(access)) => {
            let handle = operation.handle();
            ask(
                request,
                Awaits::Donation(access),
                message::Request::Donate { handle },
            )
        }
        _ => to_worker(request, group, memory),
    }
}

/// The donated file that `operation` may be carried out on.
fn donated(operation: FileOperation, group: &Group) -> Option<recycle::Shared<DonatedFile>> {
    let file = group.shared.handles.as_ref()?.file(operation.handle())?;
    may_operate(operation, &file, group).then_some(file)
}

/// Whether `operation` may be carried out here: what is not open for writing gives the worker's error, and what a change
/// leaves of a setuid or setgid bit is the worker's to decide.
fn may_operate(operation: FileOperation, file: &DonatedFile, group: &Group) -> bool {
    let handles = group.shared.handles.as_ref();
    let changes = handles.map_or(0, |handles| handles.mode_changes());
    !operation.writes() || file.is_writable() && file.keeps_mode(changes)
}

/// On this file, which needs no buffer of the ring.
fn here(mut request: Box<Request>, file: recycle::Shared<DonatedFile>, group: &mut Group) -> Next<'static> {
    group.lane.give_back(request.bulk.take());
    request.file = Some(file);
    Next::Local(request)
}

/// On the file that was just donated, or by the worker if there is none or this process may not.
pub(super) fn after_donation(
    request: Box<Request>,
    file: Option<recycle::Shared<DonatedFile>>,
    group: &mut Group,
    memory: &Memory,
) -> Next<'static> {
    match file {
        Some(file) if may_operate(request.operation, &file, group) => here(request, file, group),
        _ => to_worker(request, group, memory),
    }
}

/// Has the worker carry out what is left of a file operation, in pieces of a bulk buffer where it moves data.
pub(super) fn to_worker(request: Box<Request>, group: &mut Group, memory: &Memory) -> Next<'static> {
    // What was moved is less than the request's 32 bits say.
    let done = request.done;
    let part = request.operation.part(done as u32, BULK_SIZE as u32);
    let Some(size) = part.size() else {
        return ask(request, Awaits::Answer, part.into());
    };
    group.schedule.moved(size);
    if let (FileOperation::Write { .. }, Some(bulk)) = (part, &request.bulk) {
        let (buffer, from) = (group.lane.ring.bulk(bulk), request.data_at + done);
        let data = &request.chain.readable;
        if guest_io::guest_to_bulk(&buffer, memory, data, from, size as usize).is_err() {
            return Next::Answer(request, Answer::Error(Errno::EIO));
        }
    }
    ask(request, Awaits::Data(size), part.into())
}
