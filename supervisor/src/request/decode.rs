//! 2 decode: a request is copied out of guest memory once, and checked.

use super::value::{Answer, Next, Request};
use crate::{
    fuse::{self, Header, IN_HEADER_LEN, Negotiated, Refusal},
    guest_memory::Memory,
    rings::Rings,
};

/// Reads the chain and decodes the request. `control` is private memory for its bytes.
pub(super) fn decode<'c>(
    mut request: Box<Request>,
    memory: &Memory,
    rings: &Rings<'_>,
    session: Option<&Negotiated>,
    control: &'c mut Vec<u8>,
) -> Next<'c> {
    if let Err(error) = request.chain.walk(memory, rings, request.head.index) {
        return Next::Answer(request, Answer::Malformed(error.why(), None));
    }
    let readable = &request.chain.readable;
    let lengths = fuse::Chain {
        readable: readable.len(),
        writable: request.chain.writable.len(),
    };
    let mut header = [0; IN_HEADER_LEN];
    if readable.read(memory, 0, &mut header).is_err() {
        return refused(request, Refusal::TOO_SHORT);
    }
    let header = Header::read(&header);
    let length = header.control_len(lengths.readable).max(IN_HEADER_LEN);
    control.resize(length - IN_HEADER_LEN, 0);
    if readable.read(memory, IN_HEADER_LEN, control).is_err() {
        // The VMM took that memory away meanwhile.
        return refused(request, Refusal::TOO_SHORT);
    }
    match fuse::decode(&header, control, lengths, session) {
        Ok(decoded) => {
            request.unique = decoded.unique;
            request.row = decoded.row;
            request.limit = decoded.limit;
            request.mode = decoded.mode;
            request.data_at = length;
            Next::Route(request, decoded.operation)
        }
        Err(refusal) => refused(request, refusal),
    }
}

fn refused(mut request: Box<Request>, refusal: Refusal) -> Next<'static> {
    let errno = refusal.answer.map(|(unique, errno)| {
        request.unique = unique;
        errno
    });
    let answer = match (refusal.malformed, errno) {
        (true, errno) => Answer::Malformed(refusal.why, errno),
        (false, Some(errno)) => Answer::Error(errno),
        (false, None) => Answer::Nothing,
    };
    Next::Answer(request, answer)
}
