//! Requests of the guest on their way from a virtqueue to their answer: steps 1 to 4, 6 and 7 of docs/ARCHITECTURE.md, each in
//! a file that begins with its number; step 5 is the worker's.
//!
//! A [`Request`] moves by ownership. A step is a function that takes it and says what comes [`Next`]; [`drive`] is the loop
//! that carries it from step to step. [`rounds`] is the loop around that, of a thread with its virtqueues.

mod answer;
mod buffers;
mod collect;
mod complete;
mod decode;
mod donation;
mod forget;
mod given_up;
mod group;
mod lane;
mod local;
mod pending;
mod queue;
mod rounds;
mod route;
mod schedule;
mod value;

pub(crate) use self::{
    buffers::Buffers,
    group::{Group, QUEUES_MAX, Unfinished},
    value::{Head, Request},
};
use self::{group::Round, value::Next};

/// Takes a request from step to step until it is answered, or another has it. False: it stays in its ring.
fn drive(group: &mut Group, mut next: Next<'_>, round: &mut Round<'_>) -> bool {
    loop {
        next = match next {
            Next::Route(request, operation) => route::route(request, &operation, group, round.memory),
            Next::Local(request) => local::local(request, group, round.memory),
            Next::Ask(request, message) => {
                group.schedule.gave(&request);
                group.lane.ask(request, &message)
            }
            Next::Answer(request, answer) => {
                answer::answer(request, answer, group, round);
                return true;
            }
            Next::Wait(request) => {
                group.waiting.push(request);
                return true;
            }
            Next::Stay(request) => {
                group.spare.keep(request);
                return false;
            }
            Next::Drop(request) => {
                group.drop_taken(request.head);
                group.over(request);
                return true;
            }
            Next::Away => return true,
        }
    }
}

#[cfg(test)]
mod tests;
