//! Both directions' messages against bytes that are none: a fixed seed, a bounded number of tries.

use serde::{Deserialize, Serialize};

use crate::{
    Bytes, Errno, Handle, Name, NodeId,
    message::{
        Attr, AttrChange, Caller, ConfinementReport, Creation, DirEntry, Entry, FileLock, Reply, Request,
        SetTime, Started, Timestamp, WorkerConfig, XattrName,
    },
};

/// Numbers that look random and are the same each time (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// A sample, some of its bytes changed, cut, doubled; or nothing but noise.
    fn mutate(&mut self, sample: &[u8]) -> Vec<u8> {
        let mut bytes = sample.to_vec();
        if self.below(8) == 0 {
            bytes = (0..self.below(64)).map(|_| self.next() as u8).collect();
        }
        for _ in 0..self.below(4) {
            if bytes.is_empty() {
                break;
            }
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes[at] = self.next() as u8,
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes.truncate(at),
                3 => bytes.insert(at, b"/.\0\xff\x80"[self.below(5)]),
                _ => bytes.extend_from_within(at..),
            }
        }
        bytes
    }
}

fn encoded(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).unwrap()
}

/// Tries `count` mutations of the samples. What decodes must encode, and decode to the same again; how many did.
fn tries<'a, T: Serialize + Deserialize<'a> + PartialEq + std::fmt::Debug>(
    seed: u64,
    samples: &[Vec<u8>],
    count: usize,
    check: impl Fn(&T),
) -> usize {
    let mut numbers = Numbers(seed);
    let mut fine = 0;
    for _ in 0..count {
        let sample = numbers.below(samples.len());
        let bytes = numbers.mutate(&samples[sample]);
        // For the length of the test: values borrow from their bytes.
        let bytes: &'a [u8] = Box::leak(bytes.into_boxed_slice());
        let Ok((value, _)) = postcard::take_from_bytes::<T>(bytes) else {
            continue;
        };
        check(&value);
        let again: &'a [u8] = Box::leak(encoded(&value).into_boxed_slice());
        assert_eq!(
            postcard::from_bytes::<T>(again).as_ref(),
            Ok(&value),
            "{bytes:02x?}"
        );
        fine += 1;
    }
    fine
}

fn is_component(name: Name<'_>) {
    assert!(Name::new(name.as_bytes()).is_ok(), "{name:?}");
}

fn creation() -> Creation<'static> {
    Creation {
        caller: Caller {
            uid: 1,
            gid: 2,
            group: Some(3),
        },
        mode: 0o644,
        umask: 0o22,
        security: Some((XattrName::new(b"security.label").unwrap(), Bytes(b"value"))),
    }
}

#[test]
fn no_bytes_make_a_request_that_holds_what_its_types_forbid() {
    let (parent, name) = (NodeId::ROOT, Name::new(b"name").unwrap());
    let node = parent;
    let samples = [
        Request::Forget(Bytes(&[1; 32])),
        Request::Lookup { parent, name },
        Request::SetAttr {
            node,
            handle: Some(Handle(7)),
            change: AttrChange {
                atime: Some(SetTime::To(Timestamp {
                    seconds: -1,
                    nanoseconds: 5,
                })),
                size: Some(1 << 40),
                ..AttrChange::default()
            },
        },
        Request::Symlink {
            parent,
            name,
            target: Bytes(b"target"),
            creation: creation(),
        },
        Request::Rename {
            parent,
            name,
            new_parent: node,
            new_name: name,
            flags: 1,
        },
        Request::Create {
            parent,
            name,
            flags: 2,
            kill_suidgid: true,
            creation: creation(),
        },
        Request::GetXattr {
            node,
            name: XattrName::new(b"user.a").unwrap(),
            size: 10,
        },
        Request::SetLock {
            handle: Handle(1),
            owner: 1,
            lock: FileLock {
                start: 0,
                end: 9,
                kind: 1,
                pid: 1,
            },
            flock: false,
            wait: Some(1),
        },
    ];
    let samples = samples.map(|sample| encoded(&sample));
    let fine = tries(1, &samples, 60_000, |request: &Request<'_>| match *request {
        Request::Lookup { name, .. } | Request::Symlink { name, .. } | Request::Create { name, .. } => {
            is_component(name);
        }
        Request::Rename { name, new_name, .. } => {
            is_component(name);
            is_component(new_name);
        }
        Request::GetXattr { name, .. } => assert!(XattrName::new(name.as_bytes()).is_ok()),
        _ => {}
    });
    assert!(fine > 10_000, "{fine}");
}

#[test]
fn no_bytes_make_a_reply_that_holds_what_its_types_forbid() {
    let entry = Entry {
        node: NodeId(1 << 40),
        attr: Attr {
            btime: Some(Timestamp::default()),
            ..Attr::default()
        },
    };
    let samples = [
        Reply::Error(Errno::EIO),
        Reply::Entry(entry),
        Reply::Target(Bytes(b"target")),
        Reply::Created {
            entry,
            handle: Handle(3),
        },
        Reply::Data { size: 1 << 20 },
        Reply::Lock(FileLock {
            start: 0,
            end: u64::MAX,
            kind: 2,
            pid: 0,
        }),
    ];
    let samples = samples.map(|sample| encoded(&sample));
    let fine = tries(2, &samples, 60_000, |reply: &Reply<'_>| {
        if let Reply::Error(errno) = reply {
            assert!((1..=4095).contains(&errno.number()), "{errno:?}");
        }
    });
    assert!(fine > 10_000, "{fine}");
    let listing = encoded(&DirEntry {
        ino: 1,
        next: 2,
        kind: 8,
        name: Bytes(b"name"),
        entry: Some(entry),
    });
    assert!(tries(3, &[listing], 20_000, |_: &DirEntry<'_>| ()) > 3_000);
}

#[test]
fn no_bytes_make_a_start_that_panics_its_reader() {
    let ready = encoded(&Started::Ready(ConfinementReport {
        namespaces: vec!["mnt".into(), "pid".into()],
        weakened: vec!["a line".into()],
        ..ConfinementReport::default()
    }));
    let failed = encoded(&Started::Failed {
        kind: 70,
        message: "a line".into(),
    });
    let mut numbers = Numbers(4);
    let mut fine = 0;
    for _ in 0..20_000 {
        let sample = if numbers.below(2) == 0 { &ready } else { &failed };
        let bytes = numbers.mutate(sample);
        fine += usize::from(postcard::from_bytes::<Started>(&bytes).is_ok());
        // The same bytes the other way round: lists, paths and options of the worker's settings.
        let _ = postcard::from_bytes::<WorkerConfig>(&bytes);
    }
    assert!(fine > 2_000, "{fine}");
}
