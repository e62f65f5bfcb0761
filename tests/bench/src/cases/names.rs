//! LOOKUP, RENAME: names.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use nix::errno::Errno;

use super::{Actors, Case, DISK, Extent, PLAIN, Setup, Single, around};
use crate::actor::{Actor, Reply, Request, Step};
use crate::{sys, tree};
use airlockfs_tests::fuse::abi::{EntryOut, LOOKUP, RENAME, RenameIn};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "lookup",
            about: "LOOKUP of a known name, 1,000 names in turn",
            actors: lookup,
            host: Some(|tree| {
                let dir = File::open(tree.path("small"))?;
                let names = small_names()?;
                let mut next = around(0, names.len());
                Ok(Box::new(move || {
                    sys::statx(dir.as_fd(), &names[next()]).map(|_| 1)
                }))
            }),
            ..PLAIN
        },
        Case {
            name: "lookup-new",
            about: "LOOKUP of 100,000 new names, and FORGET of all of them after",
            extent: Extent::Work,
            actors: lookup_new,
            ..PLAIN
        },
        Case {
            name: "lookup-cold",
            about: "LOOKUP of names that the host must read from its disk, 100 directories by turns",
            depths: &[1, 32],
            media: DISK,
            extent: Extent::Work,
            actors: lookup_cold,
            ..PLAIN
        },
        Case {
            name: "lookup-missing",
            about: "LOOKUP of a name that does not exist",
            actors: lookup_missing,
            host: Some(|tree| {
                let dir = File::open(tree.path("small"))?;
                Ok(Box::new(move || {
                    ensure!(
                        sys::statx(dir.as_fd(), c"missing").is_err(),
                        "a name that should not exist"
                    );
                    Ok(1)
                }))
            }),
            ..PLAIN
        },
        Case {
            name: "rename",
            about: "RENAME of a file within its directory",
            actors: rename,
            host: Some(|tree| {
                let (a, b) = (tree.path("work/host-a"), tree.path("work/host-b"));
                File::create(&a)?;
                let mut names = [a, b];
                Ok(Box::new(move || {
                    std::fs::rename(&names[0], &names[1])?;
                    names.swap(0, 1);
                    Ok(1)
                }))
            }),
            ..PLAIN
        },
    ]
}

fn small_names() -> Result<Vec<CString>> {
    (0..tree::SMALL_FILES)
        .map(|i| Ok(CString::new(tree::small(i))?))
        .collect()
}

pub(super) fn lookup(setup: &Setup<'_>) -> Result<Actors> {
    let (dir, nodes) = setup.small_files()?;
    let names: Arc<[String]> = (0..nodes.len()).map(tree::small).collect();
    setup.each(|slot| {
        let names = Arc::clone(&names);
        let mut next = around(slot, names.len());
        Ok(Single {
            fill: move |request: &mut Request| {
                let name = names[next()].as_bytes();
                request.begin(LOOKUP, dir).name(name).reply(size_of::<EntryOut>());
            },
            take: |reply: &Reply<'_>| {
                ensure!(reply.body::<EntryOut>(0)?.nodeid != 0, "no node");
                Ok(1)
            },
        })
    })
}

fn lookup_missing(setup: &Setup<'_>) -> Result<Actors> {
    let dir = setup.node("small")?;
    setup.each(|_| {
        Ok(Single {
            fill: move |request: &mut Request| {
                request
                    .begin(LOOKUP, dir)
                    .name(b"missing")
                    .reply(size_of::<EntryOut>());
            },
            take: |reply: &Reply<'_>| {
                // An entry without a node says the same, and how long it may be believed.
                let missing = match reply.errno() {
                    Some(errno) => errno == Errno::ENOENT,
                    None => reply.body::<EntryOut>(0)?.nodeid == 0,
                };
                ensure!(missing, "{reply:?}");
                Ok(1)
            },
        })
    })
}

/// Takes the next name that nobody looked up.
struct New {
    dirs: Arc<[u64]>,
    names: Arc<[String]>,
    next: Arc<AtomicUsize>,
    at: usize,
    last: usize,
    /// From one name to the next, through all directories.
    stride: usize,
    found: Vec<u64>,
}

fn lookup_new(setup: &Setup<'_>) -> Result<Actors> {
    let dirs = if setup.quick {
        tree::NAME_DIRS / 5
    } else {
        tree::NAME_DIRS
    };
    new_names(setup, dirs, dirs * tree::NAMES_PER_DIR, 1)
}

fn lookup_cold(setup: &Setup<'_>) -> Result<Actors> {
    let count = if setup.quick { 2048 } else { 8192 };
    // Prime, so that each name comes once; most are in another directory than the one before.
    let actors = new_names(setup, tree::NAME_DIRS, count, 61_813)?;
    setup.tree.cool_names()?;
    Ok(actors)
}

/// Looks up `last` names of so many directories.
fn new_names(setup: &Setup<'_>, dirs: usize, last: usize, stride: usize) -> Result<Actors> {
    let parents = (0..dirs).map(|d| setup.node(&tree::names_dir(d)));
    let dirs: Arc<[u64]> = parents.collect::<Result<_>>()?;
    let names: Arc<[String]> = (0..tree::NAMES_PER_DIR).map(tree::small).collect();
    let next = Arc::new(AtomicUsize::new(0));
    setup.each(|_| {
        Ok(New {
            last,
            stride,
            dirs: Arc::clone(&dirs),
            names: Arc::clone(&names),
            next: Arc::clone(&next),
            at: 0,
            found: Vec::new(),
        })
    })
}

impl Actor for New {
    fn more(&mut self) -> bool {
        self.at = self.next.fetch_add(1, Ordering::Relaxed);
        self.at < self.last
    }

    fn request(&mut self, _: usize, request: &mut Request) {
        let at = self.at * self.stride % (self.dirs.len() * self.names.len());
        let dir = self.dirs[at / self.names.len()];
        let name = self.names[at % self.names.len()].as_bytes();
        request.begin(LOOKUP, dir).name(name).reply(size_of::<EntryOut>());
    }

    fn reply(&mut self, _: usize, reply: &Reply<'_>, _: &mut Vec<u64>) -> Result<Step> {
        self.found.push(reply.body::<EntryOut>(0)?.nodeid);
        Ok(Step::Done(1))
    }

    fn finish(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.found)
    }
}

fn rename(setup: &Setup<'_>) -> Result<Actors> {
    let dir = setup.node("work")?;
    setup.each(|slot| {
        let mut names = [format!("rename-{slot}-a"), format!("rename-{slot}-b")];
        File::create(setup.tree.path("work").join(&names[0]))?;
        setup.client.lookup(dir, &names[0])?;
        Ok(Single {
            fill: move |request: &mut Request| {
                let body = RenameIn { newdir: dir };
                let [from, to] = [&names[0], &names[1]].map(|name| name.as_bytes());
                request
                    .begin(RENAME, dir)
                    .body(&body)
                    .name(from)
                    .name(to)
                    .reply(0);
                names.swap(0, 1);
            },
            take: |reply: &Reply<'_>| reply.ok().map(|()| 1),
        })
    })
}
