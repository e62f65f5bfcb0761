//! What comes back: waits for locks that were over while their ring was stopped, the worker's replies, what data threads
//! are done with. Then the lane may have room for what waits for it.

use airlockfs_ipc::Errno;

use super::{
    Buffers, complete, drive,
    group::{Group, Round},
    local,
    pending::Pending,
    queue::Virtqueue,
    value::{Answer, Awaits, Next},
};
use crate::{guest_memory::Memory, shared::FailureReason};

/// Carries all of it on. False: there was nothing.
pub(super) fn collect(group: &mut Group, memory: &Memory, buffers: &mut Buffers) -> bool {
    let Buffers {
        message,
        reply: reply_buffers,
        finished,
        ..
    } = buffers;
    let mut round = Round {
        memory,
        buffers: reply_buffers,
    };
    let mut any = release_held(group, &mut round);
    if group.shared.failure.is_set() {
        any |= fail_all(group, &mut round);
    }
    while !group.shared.failure.is_set() {
        let completed = match group.lane.ring.next_completion(message) {
            Ok(None) => break,
            Ok(Some((slot, reply))) => complete::complete(slot, &reply, group, &mut round).map(|next| {
                drive(group, next, &mut round);
            }),
            Err(error) => Err(error),
        };
        any = true;
        if let Err(error) = completed {
            group.shared.failure.set(FailureReason::Violation(error));
        }
    }
    group.completions.take_finished(finished);
    for request in finished.drain(..) {
        any = true;
        let next = local::finished(request, group, memory);
        drive(group, next, &mut round);
    }
    any | send_waiting(group, &mut round)
}

/// Answers those that were held back while their ring was stopped.
fn release_held(group: &mut Group, round: &mut Round<'_>) -> bool {
    let mut any = false;
    for place in 0..group.queues.len() {
        let held = group.queues.get_mut(place).map(Virtqueue::release_held);
        for (request, errno) in held.into_iter().flatten() {
            any = true;
            drive(group, Next::Answer(request, Answer::Lock(errno)), round);
        }
    }
    any
}

/// The worker answers nothing any more.
fn fail_all(group: &mut Group, round: &mut Round<'_>) -> bool {
    let mut any = false;
    while let Some(pending) = group.lane.pending.take_any() {
        any = true;
        let Pending::Request(request) = pending else {
            continue;
        };
        let answer = match request.awaits {
            Awaits::StaleLock => None,
            _ if request.late => None,
            Awaits::Lock => Some(Answer::Lock(Some(Errno::EIO))),
            _ => Some(Answer::Error(Errno::EIO)),
        };
        match answer {
            Some(answer) => {
                drive(group, Next::Answer(request, answer), round);
            }
            None => group.over(request),
        }
    }
    while let Some(request) = group.waiting.pop() {
        any = true;
        drive(group, Next::Answer(request, Answer::Error(Errno::EIO)), round);
    }
    any
}

/// Carries on what waits for room in the lane, as far as there is some.
fn send_waiting(group: &mut Group, round: &mut Round<'_>) -> bool {
    let mut any = false;
    while group.lane.has_slot()
        && let Some(request) = group.waiting.pop()
    {
        let next = local::resume(request, group, round.memory);
        let waits = matches!(next, Next::Wait(_));
        drive(group, next, round);
        if waits {
            break;
        }
        any = true;
    }
    any
}
