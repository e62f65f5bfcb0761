//! Directory listings, good and broken.

use airlockfs_ipc::message::{Attr, DirEntry, Entry, dirent_size};
use airlockfs_ipc::{Bytes, NodeId};

use super::encode;
use crate::fuse::{CacheMode, CachePolicy};

const CACHE: CachePolicy = CachePolicy::new(CacheMode::Auto);

fn entry(name: &[u8], node: Option<u64>) -> DirEntry<'_> {
    let found = node.map(|node| Entry {
        node: NodeId(node),
        attr: Attr {
            ino: 5,
            ..Default::default()
        },
    });
    DirEntry {
        ino: 5,
        next: u64::MAX - 1,
        kind: libc::DT_REG,
        name: Bytes(name),
        entry: found,
    }
}

fn bytes(entries: &[DirEntry<'_>]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|entry| postcard::to_allocvec(entry).unwrap())
        .collect()
}

#[test]
fn a_plain_listing_byte_by_byte() {
    let mut out = [0xaa; 80];
    let list = bytes(&[entry(b".", None), entry(b"\xff name", None)]);
    assert_eq!(encode(&list, false, &CACHE, &mut out), Ok(64));
    #[rustfmt::skip]
    let expected = [
        5, 0, 0, 0, 0, 0, 0, 0,  254, 255, 255, 255, 255, 255, 255, 255,  1, 0, 0, 0,  8, 0, 0, 0,
        b'.', 0, 0, 0, 0, 0, 0, 0,
        5, 0, 0, 0, 0, 0, 0, 0,  254, 255, 255, 255, 255, 255, 255, 255,  6, 0, 0, 0,  8, 0, 0, 0,
        0xff, b' ', b'n', b'a', b'm', b'e', 0, 0,
    ];
    assert_eq!(out[..64], expected);
    assert_eq!(encode(&[], false, &CACHE, &mut out), Ok(0));
}

#[test]
fn entries_with_inodes() {
    let mut out = [0xaa; 480];
    let list = bytes(&[
        entry(b"..", None),
        entry(b"vanished", None),
        entry(b"there", Some(9)),
    ]);
    assert_eq!(encode(&list, true, &CACHE, &mut out), Ok(480));
    // Node ids: none for the dots and for what vanished, whose names stand all the same.
    for (at, node, name) in [
        (0, 0, &b"..\0\0"[..]),
        (160, 0, b"vanished"),
        (320, 9, b"there\0\0\0"),
    ] {
        assert_eq!(out[at..at + 8], u64::to_ne_bytes(node));
        assert_eq!(out[at + 152..at + 152 + name.len()], *name);
    }
    // The name's and the attributes' validity is the session's.
    assert_eq!((out[320 + 16], out[320 + 24]), (1, 1));
}

#[test]
fn the_longest_names_fill_the_room_exactly() {
    let name = [b'n'; 255];
    for (plus, node) in [(false, None), (true, Some(2))] {
        let list = bytes(&[entry(&name, node); 3]);
        let size = 3 * dirent_size(255, plus);
        assert_eq!(encode(&list, plus, &CACHE, &mut vec![0; size]), Ok(size));
        assert!(encode(&list, plus, &CACHE, &mut vec![0; size - 1]).is_err());
    }
}

#[test]
fn a_broken_list_breaks_the_boundary() {
    for name in [&b""[..], b"a/b", b"/", b"a\0b", &[b'n'; 256], &[b'n'; 4096]] {
        assert!(
            encode(&bytes(&[entry(name, None)]), false, &CACHE, &mut [0; 8192]).is_err(),
            "{name:?}"
        );
        assert!(
            encode(&bytes(&[entry(name, Some(2))]), true, &CACHE, &mut [0; 8192]).is_err(),
            "{name:?}"
        );
    }
    // Lookups nobody would ever forget, and a node that is none.
    let wrong = [
        (entry(b"a", Some(2)), false),
        (entry(b".", Some(2)), true),
        (entry(b"a", Some(0)), true),
    ];
    for (entry, plus) in wrong {
        assert!(encode(&bytes(&[entry]), plus, &CACHE, &mut [0; 8192]).is_err());
    }
}

#[test]
fn no_bytes_break_the_encoder() {
    let list = bytes(&[entry(b"first", None), entry(b"second", Some(3))]);
    let mut out = [0; 512];
    for length in 0..list.len() {
        let _ = encode(&list[..length], true, &CACHE, &mut out);
        for change in [1, 0x2f, 0x7f, 0x80, 0xff] {
            let mut changed = list.clone();
            changed[length] ^= change;
            for room in [0, 1, 160, 511, 512] {
                if let Ok(used) = encode(&changed, true, &CACHE, &mut out[..room]) {
                    assert!(used <= room && used % 8 == 0);
                }
            }
        }
    }
}
