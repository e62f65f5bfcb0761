//! 2 request: a header and a body become a checked operation. Here are the checks that every request passes; a file beside this
//! one for each family of operations decodes the bodies.

use airlockfs_ipc::Errno;

use super::input::{Fault, Input};
use super::misc;
use crate::fuse::abi::InHeader;
use crate::fuse::opcode::{self, Data, Handling, Row};
use crate::fuse::{Chain, Negotiated, OUT_HEADER_LEN, Operation, Refusal};

/// `struct fuse_in_header`.
pub(crate) const IN_HEADER_LEN: usize = size_of::<InHeader>();

/// Most bytes a request may have besides WRITE's data: the largest attribute value and the rest.
pub(in crate::fuse) const MAX_CONTROL: usize = IN_HEADER_LEN + (64 << 10) + (8 << 10);

/// A request's header, and what is known of its operation.
pub(crate) struct Header {
    fields: InHeader,
    row: Option<&'static Row>,
}

impl Header {
    /// Reads one; any bytes are one.
    pub(crate) fn read(bytes: &[u8; IN_HEADER_LEN]) -> Self {
        let fields: InHeader = zerocopy::transmute!(*bytes);
        let row = opcode::row(fields.opcode);
        Self { fields, row }
    }

    /// How many of a chain's `readable` bytes are control data, to be copied to private memory once: 80 for WRITE and 48 for a
    /// BATCH_FORGET longer than [`MAX_CONTROL`], whose data stays where it is, and everything for others, but never more
    /// than [`MAX_CONTROL`] (decode refuses what is longer).
    pub(crate) fn control_len(&self, readable: usize) -> usize {
        let limit = match self.row.map(|row| &row.data) {
            Some(Data::After(body)) => IN_HEADER_LEN + body,
            Some(Data::AfterIfLong(body)) if readable > MAX_CONTROL => IN_HEADER_LEN + body,
            _ => MAX_CONTROL,
        };
        readable.min(limit)
    }
}

/// A request that passed every check.
#[derive(Debug)]
pub(crate) struct Decoded<'a> {
    /// The request's id, repeated in the reply.
    pub(crate) unique: u64,
    /// What is known of the operation.
    pub(crate) row: &'static Row,
    /// The largest answer that was asked for, in the unit of the row's reply: bytes, as a rule. 0 where nothing bounds it.
    pub(crate) limit: u64,
    /// What the row's [`Follows`](crate::fuse::Follows) depends on: flags of open(2), or the mode that a file gets. 0 where it has none.
    pub(crate) mode: u32,
    /// What to do.
    pub(crate) operation: Operation<'a>,
}

/// Decodes and checks a request. `body` is the private copy of what follows the header, of [`Header::control_len`] bytes
/// with it; `session` is `None` before INIT and after DESTROY, when everything but INIT is EIO. Whether an INIT is
/// welcome is the session's to say.
pub(crate) fn decode<'a>(
    header: &Header,
    body: &'a [u8],
    chain: Chain,
    session: Option<&Negotiated>,
) -> Result<Decoded<'a>, Refusal> {
    decode_body(header, body, chain, session).map_err(|fault| {
        let waits = header.row.is_none_or(Row::is_answered) && chain.writable >= OUT_HEADER_LEN;
        Refusal {
            answer: waits.then_some((header.fields.unique, fault.errno)),
            malformed: fault.malformed,
            why: fault.why,
        }
    })
}

fn decode_body<'a>(
    header: &Header,
    body: &'a [u8],
    chain: Chain,
    session: Option<&Negotiated>,
) -> Result<Decoded<'a>, Fault> {
    let Header { fields, row } = header;
    let row = row.ok_or(Fault::refused(Errno::ENOSYS, "unknown opcode"))?;
    if usize::try_from(fields.len) != Ok(chain.readable) {
        return Err(Fault::malformed("a length that is not the chain's"));
    }
    // What stays in guest memory.
    let data = chain.readable.checked_sub(IN_HEADER_LEN + body.len());
    let data = data.ok_or(Fault::malformed("shorter than its control part"))?;
    if data > 0 && matches!(row.data, Data::None) {
        return Err(Fault {
            errno: Errno::E2BIG,
            ..Fault::malformed("larger than any request")
        });
    }
    let room = if row.is_answered() {
        chain
            .writable
            .checked_sub(OUT_HEADER_LEN)
            .ok_or(Fault::malformed("no room for an answer"))?
    } else {
        0
    };
    let (operation, limit, mode) = match (&row.handling, session) {
        (Handling::Begin, _) => (misc::init(body)?, 0, 0),
        (_, None) => return Err(Fault::outside("an operation before INIT")),
        (Handling::Refuse(errno, why), Some(_)) => return Err(Fault::refused(*errno, why)),
        (Handling::Serve(decoder), Some(session)) => {
            let mut input = Input::new(*fields, body, data, room, session);
            let operation = decoder(&mut input)?;
            input.end()?;
            (operation, input.limit, input.mode)
        }
    };
    // The answer's fixed part fits the chain; otherwise the operation would be done and its answer lost.
    if row.reply.least(limit) > room {
        return Err(Fault::malformed("no room for the answer"));
    }
    Ok(Decoded {
        unique: fields.unique,
        row,
        limit,
        mode,
        operation,
    })
}
