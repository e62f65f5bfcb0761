//! GETATTR, GETXATTR, STATFS: what a node is.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::{Actors, Case, PLAIN, Setup, Single, around};
use crate::actor::{Reply, Request};
use crate::tree::{XATTR, XATTR_VALUE};
use crate::{sys, tree};
use airlockfs_tests::fuse::abi::{
    AttrOut, GETATTR, GETXATTR, GetattrIn, GetxattrIn, Kstatfs, ROOT, STATFS, getattr_flags,
};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "getattr",
            about: "GETATTR by node, 1,000 nodes in turn",
            actors: getattr,
            host: Some(|tree| {
                let files = open_all(tree, libc::O_PATH)?;
                let mut next = around(0, files.len());
                Ok(Box::new(move || {
                    sys::statx(files[next()].as_fd(), c"").map(|_| 1)
                }))
            }),
            ..PLAIN
        },
        Case {
            name: "getattr-handle",
            about: "GETATTR by the handle of an open file",
            actors: getattr_handle,
            host: Some(|tree| {
                let file = File::open(tree.path("small").join(tree::small(0)))?;
                Ok(Box::new(move || sys::statx(file.as_fd(), c"").map(|_| 1)))
            }),
            ..PLAIN
        },
        Case {
            name: "getxattr",
            about: "GETXATTR of 32 bytes",
            options: &["--xattr"],
            actors: getxattr,
            host: Some(|tree| {
                let files = open_all(tree, 0)?;
                let mut next = around(0, files.len());
                let mut value = [0; 256];
                Ok(Box::new(move || {
                    sys::get_xattr(files[next()].as_fd(), XATTR, &mut value).map(|_| 1)
                }))
            }),
            ..PLAIN
        },
        Case {
            name: "statfs",
            about: "STATFS of the root",
            actors: statfs,
            host: Some(|tree| {
                let root = File::open(tree.root())?;
                Ok(Box::new(move || {
                    nix::sys::statfs::fstatfs(&root)?;
                    Ok(1)
                }))
            }),
            ..PLAIN
        },
    ]
}

fn open_all(tree: &tree::Tree, flags: i32) -> Result<Vec<File>> {
    let paths = (0..tree::SMALL_FILES).map(|i| tree.path(PathBuf::from("small").join(tree::small(i))));
    let open = |path| {
        std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
    };
    Ok(paths.map(open).collect::<Result<_, _>>()?)
}

fn attributes(reply: &Reply<'_>) -> Result<u64> {
    ensure!(reply.body::<AttrOut>(0)?.attr.size == 4096, "another file's size");
    Ok(1)
}

fn getattr(setup: &Setup<'_>) -> Result<Actors> {
    let (_, nodes) = setup.small_files()?;
    setup.each(|slot| {
        let nodes = Arc::clone(&nodes);
        let mut next = around(slot, nodes.len());
        Ok(Single {
            fill: move |request: &mut Request| {
                let node = nodes[next()];
                request
                    .begin(GETATTR, node)
                    .body(&GetattrIn::default())
                    .reply(size_of::<AttrOut>());
            },
            take: attributes,
        })
    })
}

fn getattr_handle(setup: &Setup<'_>) -> Result<Actors> {
    let (_, nodes) = setup.small_files()?;
    setup.each(|slot| {
        let file = setup.client.open(nodes[slot], libc::O_RDONLY)?;
        let body = GetattrIn {
            flags: getattr_flags::FH,
            fh: file.fh,
            ..GetattrIn::default()
        };
        Ok(Single {
            fill: move |request: &mut Request| {
                request
                    .begin(GETATTR, file.node)
                    .body(&body)
                    .reply(size_of::<AttrOut>());
            },
            take: attributes,
        })
    })
}

fn getxattr(setup: &Setup<'_>) -> Result<Actors> {
    let (_, nodes) = setup.small_files()?;
    setup.each(|slot| {
        let nodes = Arc::clone(&nodes);
        let mut next = around(slot, nodes.len());
        let body = GetxattrIn {
            size: 256,
            ..GetxattrIn::default()
        };
        Ok(Single {
            fill: move |request: &mut Request| {
                request
                    .begin(GETXATTR, nodes[next()])
                    .body(&body)
                    .name(XATTR.to_bytes())
                    .reply(256);
            },
            take: |reply: &Reply<'_>| {
                reply.ok()?;
                ensure!(
                    reply.len() == XATTR_VALUE.len(),
                    "a value of {} bytes",
                    reply.len()
                );
                Ok(1)
            },
        })
    })
}

fn statfs(setup: &Setup<'_>) -> Result<Actors> {
    setup.each(|_| {
        Ok(Single {
            fill: |request: &mut Request| request.begin(STATFS, ROOT).reply(size_of::<Kstatfs>()),
            take: |reply: &Reply<'_>| reply.body::<Kstatfs>(0).map(|_| 1),
        })
    })
}
