//! A request's body while it is decoded: every read is bounded, what is left over is an error.

use airlockfs_ipc::message::XattrName;
use airlockfs_ipc::{Errno, Handle, Name, NodeId};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::fuse::Negotiated;
use crate::fuse::abi::InHeader;
use crate::fuse::abi::flags;

/// Why a request is not carried out; [`crate::fuse::Refusal`] without the answer's address.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) struct Fault {
    pub(super) errno: Errno,
    pub(super) malformed: bool,
    pub(super) why: &'static str,
}

impl Fault {
    /// No Linux guest sends this: EINVAL.
    pub(super) const fn malformed(why: &'static str) -> Self {
        Self {
            errno: Errno::EINVAL,
            malformed: true,
            why,
        }
    }

    /// Not in this state of the session: EIO.
    pub(super) const fn outside(why: &'static str) -> Self {
        Self {
            errno: Errno::EIO,
            malformed: true,
            why,
        }
    }

    /// A lawful request that fails.
    pub(super) const fn refused(errno: Errno, why: &'static str) -> Self {
        Self {
            errno,
            malformed: false,
            why,
        }
    }
}

/// A request: its header, what is left of its body, and what bounds it.
pub(in crate::fuse) struct Input<'a, 's> {
    pub(super) header: InHeader,
    body: &'a [u8],
    /// Bytes that follow in guest memory (WRITE).
    pub(super) data: usize,
    /// Bytes the answer may have after its header.
    pub(super) room: usize,
    /// [`crate::fuse::decode::request::Decoded::limit`].
    pub(super) limit: u64,
    /// [`crate::fuse::decode::request::Decoded::mode`].
    pub(super) mode: u32,
    pub(super) session: &'s Negotiated,
}

impl<'a, 's> Input<'a, 's> {
    pub(super) const fn new(
        header: InHeader,
        body: &'a [u8],
        data: usize,
        room: usize,
        session: &'s Negotiated,
    ) -> Self {
        Self {
            header,
            body,
            data,
            room,
            limit: 0,
            mode: 0,
            session,
        }
    }

    /// The next structure.
    pub(super) fn take<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, Fault> {
        let (value, rest) =
            T::read_from_prefix(self.body).map_err(|_| Fault::malformed("shorter than its structure"))?;
        self.body = rest;
        Ok(value)
    }

    /// The next `length` bytes.
    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (bytes, rest) = self
            .body
            .split_at_checked(length)
            .ok_or(Fault::malformed("shorter than it says"))?;
        self.body = rest;
        Ok(bytes)
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.body)
    }

    /// The next string, without its NUL.
    pub(super) fn string(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.body.iter().position(|byte| *byte == 0);
        let length = length.ok_or(Fault::malformed("a string without its NUL"))?;
        let string = self.bytes(length)?;
        self.bytes(1)?;
        Ok(string)
    }

    /// The next string as one component of a path.
    pub(super) fn name(&mut self) -> Result<Name<'a>, Fault> {
        component(self.string()?)
    }

    /// The next string as the name of an extended attribute.
    pub(super) fn xattr_name(&mut self) -> Result<XattrName<'a>, Fault> {
        XattrName::new(self.string()?).map_err(|errno| Fault {
            errno,
            ..Fault::malformed("not an attribute's name")
        })
    }

    /// The node the request is about.
    pub(super) fn node(&self) -> Result<NodeId, Fault> {
        node(self.header.nodeid)
    }

    /// The open file that `fh` names; where files are opened without asking, 0 is the node's own.
    pub(super) fn file(&self, fh: u64) -> Result<Handle, Fault> {
        self.handle(fh, flags::NO_OPEN_SUPPORT)
    }

    /// The open directory that `fh` names, likewise.
    pub(super) fn directory(&self, fh: u64) -> Result<Handle, Fault> {
        self.handle(fh, flags::NO_OPENDIR_SUPPORT)
    }

    fn handle(&self, fh: u64, unasked: u64) -> Result<Handle, Fault> {
        match fh {
            0 if self.session.flags & unasked != 0 => Handle::of_node(self.node()?)
                .ok_or(Fault::refused(Errno::ESTALE, "a node that was never given")),
            _ => Ok(Handle(fh)),
        }
    }

    /// The file that is written to. Files are opened without asking only where nothing changes.
    pub(super) fn written(&self, fh: u64) -> Result<Handle, Fault> {
        match self.file(fh)? {
            handle if handle == Handle(fh) => Ok(handle),
            _ => Err(Fault::refused(Errno::EROFS, "nothing is changed here")),
        }
    }

    /// Either, where 0 stands for none.
    pub(super) fn opened(&self, fh: u64) -> Option<Handle> {
        let unasked = flags::NO_OPEN_SUPPORT | flags::NO_OPENDIR_SUPPORT;
        (fh != 0 || self.session.flags & unasked == 0).then_some(Handle(fh))
    }

    /// `size`, for which the guest gave room. A guest that asks for more than it has room for is not answered less:
    /// a short read would tell it that the file ends.
    pub(super) fn roomy(&self, size: u32) -> Result<u32, Fault> {
        if usize::try_from(size).is_ok_and(|size| size <= self.room) {
            Ok(size)
        } else {
            Err(Fault::malformed("more asked than there is room for"))
        }
    }

    /// Nothing is left.
    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.body.is_empty() {
            Ok(())
        } else {
            Err(Fault::malformed("longer than its structures"))
        }
    }
}

/// One component of a path.
pub(super) fn component(string: &[u8]) -> Result<Name<'_>, Fault> {
    Name::new(string).map_err(|errno| match errno {
        Errno::ENAMETOOLONG => Fault::refused(errno, "a name longer than 255 bytes"),
        _ => Fault {
            errno,
            ..Fault::malformed("a name that is not one component")
        },
    })
}

/// A node id: 0 names nothing.
pub(super) fn node(number: u64) -> Result<NodeId, Fault> {
    match number {
        0 => Err(Fault::malformed("node id 0")),
        _ => Ok(NodeId(number)),
    }
}

/// A file offset as the kernel has it: not negative.
pub(super) fn offset(number: u64, errno: Errno) -> Result<u64, Fault> {
    if i64::try_from(number).is_ok() {
        Ok(number)
    } else {
        Err(Fault {
            errno,
            ..Fault::malformed("an offset of 2^63 or more")
        })
    }
}

/// Bytes from `offset` (already checked) to the largest offset there is.
pub(super) const fn to_end(offset: u64) -> u64 {
    i64::MAX.cast_unsigned().saturating_sub(offset)
}
