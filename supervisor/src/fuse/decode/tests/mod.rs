//! Decoding: what valid requests mean, and that no others come through.

mod attr;
mod create;
mod hostile;
mod io;
mod misc;
mod names;
pub(in crate::fuse) mod samples;
mod xattr;

use airlockfs_ipc::message::{Caller, Request, XattrName};
use airlockfs_ipc::{Errno, Handle, Name, NodeId};

use super::{control_len, decode};
use crate::fuse::{Decoded, Negotiated, Operation, Refusal, ReplyShape};
use samples::{Sample, session};

/// Decodes in the session with everything on; INIT before it.
fn decoded(sample: &Sample) -> Result<Decoded<'_>, Refusal> {
    let session = session();
    decoded_in(
        sample,
        if sample.opcode() == crate::fuse::opcode::INIT {
            None
        } else {
            Some(&session)
        },
    )
}

fn decoded_in<'a>(sample: &'a Sample, session: Option<&Negotiated>) -> Result<Decoded<'a>, Refusal> {
    let (control, chain) = sample.parts();
    decode(control, chain, session)
}

/// The operation of a sample that must decode.
fn operation<'a>(sample: &'a Sample) -> Operation<'a> {
    match decoded(sample) {
        Ok(decoded) => decoded.operation,
        Err(refusal) => panic!("{refusal:?}"),
    }
}

const NODE: NodeId = NodeId(7);
const H: Handle = Handle(9);
const NOTHING: ReplyShape = ReplyShape::Nothing;
const CALLER: Caller = Caller {
    uid: 1000,
    gid: 100,
    group: Some(33),
};

fn name(bytes: &[u8]) -> Name<'_> {
    Name::new(bytes).unwrap()
}

fn xattr(bytes: &[u8]) -> XattrName<'_> {
    XattrName::new(bytes).unwrap()
}

fn control<'a>(request: Request<'a>, reply: ReplyShape) -> Operation<'a> {
    Operation::Control {
        request,
        reply,
        bulk: &[],
    }
}

#[track_caller]
fn assert_means(sample: &Sample, request: Request<'_>, reply: ReplyShape) {
    assert_eq!(operation(sample), control(request, reply));
}

#[track_caller]
fn assert_refused(sample: &Sample, errno: Errno) {
    assert_eq!(decoded(sample).unwrap_err().answer, Some((0x1122_3344, errno)));
}
