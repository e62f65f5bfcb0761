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

use super::request::Decoded;
use crate::fuse::{Chain, Header, IN_HEADER_LEN, Negotiated, Operation, Refusal, ReplyShape};
use samples::{Sample, session};

fn control_len(header: &[u8; IN_HEADER_LEN], readable: usize) -> usize {
    Header::read(header).control_len(readable)
}

/// Decodes the first `control_len` bytes of a request, a header at least.
fn decode<'a>(control: &'a [u8], chain: Chain, session: Option<&Negotiated>) -> Result<Decoded<'a>, Refusal> {
    let (header, body) = control.split_first_chunk().ok_or(Refusal::TOO_SHORT)?;
    crate::fuse::decode(&Header::read(header), body, chain, session)
}

/// Decodes in the session with everything on; INIT before it.
fn decoded(sample: &Sample) -> Result<Decoded<'_>, Refusal> {
    let session = session();
    decoded_in(
        sample,
        if sample.opcode() == 26 {
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
const NOTHING: (ReplyShape, u64) = (ReplyShape::Nothing, 0);
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

/// The worker is asked for `request`; the answer looks so, and is bounded by so much.
#[track_caller]
fn assert_means(sample: &Sample, request: Request<'_>, (reply, limit): (ReplyShape, u64)) {
    let decoded = decoded(sample).unwrap_or_else(|refusal| panic!("{refusal:?}"));
    let asked = match decoded.operation {
        Operation::Ask { request, value: &[] }
        | Operation::Release { request, .. }
        | Operation::WaitForLock(request) => request,
        other => panic!("{other:?}"),
    };
    assert_eq!((asked, decoded.row.reply, decoded.limit), (request, reply, limit));
}

#[track_caller]
fn assert_refused(sample: &Sample, errno: Errno) {
    assert_eq!(decoded(sample).unwrap_err().answer, Some((0x1122_3344, errno)));
}
