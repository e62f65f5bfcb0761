//! 2 decode: guest bytes → a checked operation.
//!
//! Here are the checks that every request passes; a file beside this one for each family of operations decodes the
//! bodies. Nothing indexes, nothing wraps, nothing allocates.

pub(super) mod attr;
pub(super) mod create;
mod input;
pub(super) mod io;
pub(super) mod lock;
pub(super) mod misc;
pub(super) mod names;
#[cfg(test)]
pub(super) mod tests;
pub(super) mod xattr;

use airlockfs_ipc::{Errno, NodeId};
use zerocopy::FromBytes;

use super::abi::{BatchForgetIn, InHeader, WriteIn};
use super::opcode::{self, Handling, Row};
use super::{Chain, Decoded, Negotiated, OUT_HEADER_LEN, Operation, Refusal};
use input::{Fault, Input};

/// Decodes the body of an operation.
pub(super) type Decoder = for<'a> fn(&mut Input<'a, '_>) -> Result<Operation<'a>, Fault>;

/// `struct fuse_in_header`.
pub(crate) const IN_HEADER_LEN: usize = size_of::<InHeader>();

/// Most bytes a request may have besides WRITE's data: the largest attribute value and the rest.
pub(crate) const MAX_CONTROL: usize = IN_HEADER_LEN + (64 << 10) + (8 << 10);

/// How many of a chain's `readable` bytes are control data, to be copied to private memory once and given to
/// [`decode()`]: 80 for WRITE and 48 for a BATCH_FORGET longer than [`MAX_CONTROL`], whose data stays where it is, and
/// everything for others, but never more than [`MAX_CONTROL`] (decode refuses what is longer). Copy the header first,
/// then the rest behind it.
pub(crate) fn control_len(header: &[u8; IN_HEADER_LEN], readable: usize) -> usize {
    let header: InHeader = zerocopy::transmute!(*header);
    let limit = match header.opcode {
        opcode::WRITE => IN_HEADER_LEN + size_of::<WriteIn>(),
        opcode::BATCH_FORGET if readable > MAX_CONTROL => IN_HEADER_LEN + size_of::<BatchForgetIn>(),
        _ => MAX_CONTROL,
    };
    readable.min(limit)
}

/// Decodes and checks a request. `control` is the private copy of its first [`control_len`] bytes; `session` is
/// `None` before INIT and after DESTROY, when everything but INIT is EIO. Whether an INIT is welcome is the session's
/// to say.
pub(crate) fn decode<'a>(
    control: &'a [u8],
    chain: Chain,
    session: Option<&Negotiated>,
) -> Result<Decoded<'a>, Refusal> {
    let Ok((header, body)) = InHeader::read_from_prefix(control) else {
        return Err(Refusal {
            answer: None,
            malformed: true,
            why: "shorter than a header",
        });
    };
    let row = opcode::row(header.opcode);
    let operation = decode_body(header, body, row, chain, session).map_err(|fault| {
        let waits = row.is_none_or(|row| row.answered) && chain.writable >= OUT_HEADER_LEN;
        Refusal {
            answer: waits.then_some((header.unique, fault.errno)),
            malformed: fault.malformed,
            why: fault.why,
        }
    })?;
    Ok(Decoded {
        unique: header.unique,
        node: NodeId(header.nodeid),
        name: row.map_or("", |row| row.name),
        operation,
    })
}

/// [`decode()`] after the header.
fn decode_body<'a>(
    header: InHeader,
    body: &'a [u8],
    row: Option<&Row>,
    chain: Chain,
    session: Option<&Negotiated>,
) -> Result<Operation<'a>, Fault> {
    let row = row.ok_or(Fault::refused(Errno::ENOSYS, "unknown opcode"))?;
    if usize::try_from(header.len) != Ok(chain.readable) {
        return Err(Fault::malformed("a length that is not the chain's"));
    }
    // What stays in guest memory: WRITE's data, and the records of a long BATCH_FORGET.
    let data = chain.readable.checked_sub(IN_HEADER_LEN + body.len());
    let data = data.ok_or(Fault::malformed("shorter than its control part"))?;
    if data > 0 && !matches!(header.opcode, opcode::WRITE | opcode::BATCH_FORGET) {
        return Err(Fault {
            errno: Errno::E2BIG,
            ..Fault::malformed("larger than any request")
        });
    }
    let room = if row.answered {
        chain
            .writable
            .checked_sub(OUT_HEADER_LEN)
            .ok_or(Fault::malformed("no room for an answer"))?
    } else {
        0
    };
    let operation = match (&row.handling, session) {
        (Handling::Begin, _) => misc::init(body)?,
        (_, None) => return Err(Fault::outside("an operation before INIT")),
        (Handling::Refuse(errno, why), Some(_)) => return Err(Fault::refused(*errno, why)),
        (Handling::Serve(decoder), Some(session)) => {
            let mut input = Input::new(header, body, data, room, session);
            let operation = decoder(&mut input)?;
            input.end()?;
            operation
        }
    };
    // The answer's fixed part fits the chain; otherwise the operation would be done and its answer lost.
    if operation.least_answer() > room {
        return Err(Fault::malformed("no room for the answer"));
    }
    Ok(operation)
}
