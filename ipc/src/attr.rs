//! How [`Attr`] is encoded: as bytes of a fixed layout. As single numbers they would take the greater part of the time
//! that a LOOKUP or an entry of READDIRPLUS takes outside the kernel, on either side.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::message::{Attr, Timestamp};

/// Numbers of 64 bits, which come first.
const WIDE: usize = 9;
/// Numbers of 32 bits, and the flags.
const NARROW: usize = 12;
const LENGTH: usize = WIDE * 8 + NARROW * 4;

/// In the flags: the birth time is known.
const BORN: u32 = 1;
/// In the flags: another mount begins here.
const SUBMOUNT: u32 = 2;

impl Serialize for Attr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&pack(self))
    }
}

impl<'de> Deserialize<'de> for Attr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&'de [u8]>::deserialize(deserializer)?;
        unpack(bytes).ok_or_else(|| D::Error::custom("not an inode's attributes"))
    }
}

#[inline]
fn pack(attr: &Attr) -> [u8; LENGTH] {
    let Attr {
        ino,
        size,
        blocks,
        atime,
        mtime,
        ctime,
        btime,
        mode,
        nlink,
        uid,
        gid,
        rdev: (major, minor),
        blksize,
        attributes,
        attributes_mask,
        submount,
    } = *attr;
    let born = if btime.is_some() { BORN } else { 0 };
    let flags = born | if submount { SUBMOUNT } else { 0 };
    let btime = btime.unwrap_or_default();
    let seconds = |time: Timestamp| time.seconds.cast_unsigned();
    let wide: [u64; WIDE] = [
        ino,
        size,
        blocks,
        seconds(atime),
        seconds(mtime),
        seconds(ctime),
        seconds(btime),
        attributes,
        attributes_mask,
    ];
    let narrow: [u32; NARROW] = [
        atime.nanoseconds,
        mtime.nanoseconds,
        ctime.nanoseconds,
        btime.nanoseconds,
        mode,
        nlink,
        uid,
        gid,
        major,
        minor,
        blksize,
        flags,
    ];
    let mut bytes = [0; LENGTH];
    let (first, second) = bytes.split_at_mut(WIDE * 8);
    for (to, from) in first.chunks_exact_mut(8).zip(wide) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    for (to, from) in second.chunks_exact_mut(4).zip(narrow) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    bytes
}

/// `None`: not of the right length, or flags that do not exist.
#[inline]
fn unpack(bytes: &[u8]) -> Option<Attr> {
    let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
    let (first, second) = bytes.split_at(WIDE * 8);
    let mut wide = [0; WIDE];
    for (to, from) in wide.iter_mut().zip(first.as_chunks().0) {
        *to = u64::from_le_bytes(*from);
    }
    let mut narrow = [0; NARROW];
    for (to, from) in narrow.iter_mut().zip(second.as_chunks().0) {
        *to = u32::from_le_bytes(*from);
    }
    let [
        ino,
        size,
        blocks,
        accessed,
        modified,
        changed,
        born,
        attributes,
        attributes_mask,
    ] = wide;
    let [
        atime,
        mtime,
        ctime,
        btime,
        mode,
        nlink,
        uid,
        gid,
        major,
        minor,
        blksize,
        flags,
    ] = narrow;
    if flags & !(BORN | SUBMOUNT) != 0 {
        return None;
    }
    let time = |seconds: u64, nanoseconds| Timestamp {
        seconds: seconds.cast_signed(),
        nanoseconds,
    };
    Some(Attr {
        ino,
        size,
        blocks,
        atime: time(accessed, atime),
        mtime: time(modified, mtime),
        ctime: time(changed, ctime),
        btime: (flags & BORN != 0).then(|| time(born, btime)),
        mode,
        nlink,
        uid,
        gid,
        rdev: (major, minor),
        blksize,
        attributes,
        attributes_mask,
        submount: flags & SUBMOUNT != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_arrives() {
        let time = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
        let mut attr = Attr {
            ino: 1,
            size: 2,
            blocks: u64::MAX,
            atime: time(-3, 4),
            mtime: time(5, 6),
            ctime: time(i64::MAX, 7),
            btime: Some(time(i64::MIN, 8)),
            mode: 9,
            nlink: 10,
            uid: 11,
            gid: 12,
            rdev: (13, u32::MAX),
            blksize: 14,
            attributes: 15,
            attributes_mask: 16,
            submount: true,
        };
        for (btime, submount) in [
            (attr.btime, false),
            (None, true),
            (None, false),
            (attr.btime, true),
        ] {
            (attr.btime, attr.submount) = (btime, submount);
            let mut buffer = [0; 256];
            let encoded = postcard::to_slice(&attr, &mut buffer).unwrap();
            assert_eq!(postcard::from_bytes(encoded), Ok(attr));
        }
    }

    #[test]
    fn what_is_no_attributes_is_refused() {
        let bytes = pack(&Attr::default());
        assert!(unpack(&bytes).is_some());
        assert!(unpack(&bytes[1..]).is_none());
        assert!(unpack(&[0; LENGTH + 1]).is_none());
        for flag in 2..32 {
            let mut bytes = bytes;
            bytes[LENGTH - 4..].copy_from_slice(&(1_u32 << flag).to_le_bytes());
            assert!(unpack(&bytes).is_none(), "{flag}");
        }
    }
}
