//! OPEN and RELEASE, with a read between them or without.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::{Actors, Case, PLAIN, Setup, around};
use crate::actor::{Actor, Reply, Request, Step};
use crate::tree;
use airlockfs_tests::fuse::abi::{OPEN, OpenIn, OpenOut, READ, RELEASE, ReadIn, ReleaseIn};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "open-release",
            about: "OPEN, RELEASE",
            actors: |setup| actors(setup, false),
            host: Some(|tree| host(tree, false)),
            ..PLAIN
        },
        Case {
            name: "open-read-release",
            about: "OPEN, READ of 4 KiB, RELEASE; 1,000 files in turn",
            actors: |setup| actors(setup, true),
            host: Some(|tree| host(tree, true)),
            ..PLAIN
        },
    ]
}

fn host(tree: &tree::Tree, read: bool) -> Result<super::HostLoop> {
    let paths: Vec<_> = (0..tree::SMALL_FILES)
        .map(|i| tree.path("small").join(tree::small(i)))
        .collect();
    let mut next = around(0, paths.len());
    let mut buffer = [0; 4096];
    Ok(Box::new(move || {
        let file = File::open(&paths[next()])?;
        if read {
            file.read_exact_at(&mut buffer, 0)?;
        }
        Ok(1)
    }))
}

struct Open<N> {
    nodes: Arc<[u64]>,
    next: N,
    read: bool,
    node: u64,
    fh: u64,
}

fn actors(setup: &Setup<'_>, read: bool) -> Result<Actors> {
    let (_, nodes) = setup.small_files()?;
    setup.each(|slot| {
        Ok(Open {
            nodes: Arc::clone(&nodes),
            next: around(slot, nodes.len()),
            read,
            node: 0,
            fh: 0,
        })
    })
}

impl<N: FnMut() -> usize + Send> Actor for Open<N> {
    fn request(&mut self, step: usize, request: &mut Request) {
        match step {
            0 => {
                self.node = self.nodes[(self.next)()];
                let body = OpenIn {
                    flags: libc::O_RDONLY as u32,
                    open_flags: 0,
                };
                request
                    .begin(OPEN, self.node)
                    .body(&body)
                    .reply(size_of::<OpenOut>());
            }
            1 if self.read => {
                let body = ReadIn {
                    fh: self.fh,
                    size: 4096,
                    ..ReadIn::default()
                };
                request.begin(READ, self.node).body(&body).reply(4096);
            }
            _ => {
                let body = ReleaseIn {
                    fh: self.fh,
                    ..ReleaseIn::default()
                };
                request.begin(RELEASE, self.node).body(&body).reply(0);
            }
        }
    }

    fn reply(&mut self, step: usize, reply: &Reply<'_>, _: &mut Vec<u64>) -> Result<Step> {
        if step == 0 {
            self.fh = reply.body::<OpenOut>(0)?.fh;
            return Ok(Step::Next);
        }
        reply.ok()?;
        if step == 1 && self.read {
            ensure!(reply.len() == 4096, "{} bytes of 4096", reply.len());
            return Ok(Step::Next);
        }
        Ok(Step::Done(1))
    }
}
