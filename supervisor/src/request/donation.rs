//! The descriptor that was asked for on behalf of a file operation.

use std::sync::Once;

use airlockfs_ipc::{Handle, ProtocolError, message::Reply, recycle};

use super::{
    group::Group,
    route,
    value::{Answer, Next, Request},
};
use crate::{
    data::{Access, DonatedFile},
    guest_memory::Memory,
};

/// The worker gave a descriptor, or did not: the operation that asked for it is carried out either way.
pub(super) fn came(
    request: Box<Request>,
    access: Access,
    reply: &Reply<'_>,
    group: &mut Group,
    memory: &Memory,
) -> Next<'static> {
    match settle(request.operation.handle(), access, reply, group) {
        Ok(file) => route::after_donation(request, file, group, memory),
        Err(error) => Next::Answer(request, Answer::Violation(error)),
    }
}

/// What is known of `handle` from now on: its file, or that it has none.
fn settle(
    handle: Handle,
    access: Access,
    reply: &Reply<'_>,
    group: &mut Group,
) -> Result<Option<recycle::Shared<DonatedFile>>, ProtocolError> {
    let Some(handles) = &group.shared.handles else {
        return Err(ProtocolError("a donation nobody asked for"));
    };
    let file = match reply {
        Reply::Donated => take(handle, access, handles.mode_changes(), group)?,
        Reply::NotDonated | Reply::Error(_) => None,
        _ => return Err(ProtocolError("another answer than a donation")),
    };
    let Some(handles) = &group.shared.handles else {
        return Ok(None);
    };
    if file.is_none() {
        handles.refused(handle);
    }
    Ok(file.map(|file| handles.donated(handle, file)))
}

/// The file that the worker donated for `handle`; none if this process cannot take it. That breaks no rules, and the
/// worker serves the file.
fn take(
    handle: Handle,
    access: Access,
    mode_seen: u32,
    group: &mut Group,
) -> Result<Option<DonatedFile>, ProtocolError> {
    static NOT_HANDED_OVER: Once = Once::new();
    static UNKNOWN: Once = Once::new();
    let Some(descriptor) = group.lane.ring.receive_donation(handle)? else {
        NOT_HANDED_OVER.call_once(|| {
            log::info!(
                "a file's descriptor is not handed over: this process holds as many as its limit allows, or a security \
                 module forbids it; the data of such files goes through the worker"
            );
        });
        return Ok(None);
    };
    let writeback = group.shared.options.writeback;
    let file = DonatedFile::check(descriptor, access, writeback, mode_seen)?;
    if file.is_none() {
        UNKNOWN.call_once(|| {
            log::info!(
                "only the worker may look at a file (on a FUSE mount without allow_other?); the data of such files goes \
                 through the worker"
            );
        });
    }
    Ok(file)
}
