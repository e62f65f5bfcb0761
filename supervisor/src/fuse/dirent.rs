//! Directory entries: the worker's list → `fuse_dirent` and `fuse_direntplus` records.

use airlockfs_ipc::message::{DirEntry, dirent_size};
use airlockfs_ipc::{NAME_MAX, ProtocolError};
use zerocopy::IntoBytes;

use super::CachePolicy;
use super::abi::{Dirent, EntryOut};
use super::reply::entry_out;

#[cfg(test)]
mod tests;

/// Encodes `entries`, the privately copied bulk bytes of [`airlockfs_ipc::message::Reply::Entries`], into `out`, the
/// room after the reply's header (not longer than the request's size). Returns the bytes used. An entry that does
/// not decode, has no proper name, carries what it must not or does not fit breaks the worker's contract.
pub(crate) fn encode(
    entries: &[u8],
    plus: bool,
    cache: &CachePolicy,
    out: &mut [u8],
) -> Result<usize, ProtocolError> {
    let mut rest = entries;
    let mut used = 0;
    while !rest.is_empty() {
        let (entry, next) = DirEntry::decode(rest)?;
        rest = next;
        let end = used + dirent_size(entry.name.0.len().min(NAME_MAX), plus);
        let record = out
            .get_mut(used..end)
            .ok_or(ProtocolError("more directory entries than asked"))?;
        write(&entry, plus, cache, record)?;
        used = end;
    }
    Ok(used)
}

/// Writes one entry over the whole of `record`, which has its size.
fn write(
    entry: &DirEntry<'_>,
    plus: bool,
    cache: &CachePolicy,
    record: &mut [u8],
) -> Result<(), ProtocolError> {
    let name = checked_name(entry)?;
    let mut rest = record;
    if plus {
        let out = match &entry.entry {
            Some(found) => entry_out(found, cache)?,
            // No node: the guest takes the name and the type, and looks it up itself.
            None => EntryOut::default(),
        };
        put(&mut rest, out.as_bytes())?;
    } else if entry.entry.is_some() {
        return Err(ProtocolError("a directory entry with an inode nobody asked for"));
    }
    let dirent = Dirent {
        ino: entry.ino,
        off: entry.next,
        // At most 255.
        namelen: name.len() as u32,
        kind: entry.kind.into(),
    };
    put(&mut rest, dirent.as_bytes())?;
    put(&mut rest, name)?;
    rest.fill(0);
    Ok(())
}

/// One component; the dots may stand in a listing, but they count no lookup.
fn checked_name<'a>(entry: &DirEntry<'a>) -> Result<&'a [u8], ProtocolError> {
    let name = entry.name.0;
    if !(1..=NAME_MAX).contains(&name.len()) || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(ProtocolError("a directory entry without a proper name"));
    }
    if matches!(name, b"." | b"..") && entry.entry.is_some() {
        return Err(ProtocolError("an inode for . or .."));
    }
    Ok(name)
}

/// Writes `bytes` at the front of `rest` and moves past them.
fn put(rest: &mut &mut [u8], bytes: &[u8]) -> Result<(), ProtocolError> {
    let (front, back) = std::mem::take(rest)
        .split_at_mut_checked(bytes.len())
        .ok_or(ProtocolError("a directory entry larger than its record"))?;
    front.copy_from_slice(bytes);
    *rest = back;
    Ok(())
}
