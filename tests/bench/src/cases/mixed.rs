//! One operation beside another that is slow.

use std::fs::File;

use anyhow::Result;

use super::{Case, DISK, PLAIN, Setup, names};
use crate::actor::{Actor, Reply, Request, Step};
use airlockfs_tests::fuse::Opened;
use airlockfs_tests::fuse::abi::{FSYNC, FsyncIn, WRITE, WriteIn, WriteOut};

pub(super) fn cases() -> Vec<Case> {
    vec![Case {
        name: "lookup-beside-fsync",
        about: "LOOKUP of a known name, while one more process writes 4 KiB and calls fsync, again and again",
        depths: &[4, 16],
        media: DISK,
        actors: |setup| {
            // The process that syncs takes the place of one that looks up.
            let lookups = Setup {
                depth: setup.depth - 1,
                ..*setup
            };
            let mut actors = names::lookup(&lookups)?;
            actors.push(Box::new(sync(setup)?));
            Ok(actors)
        },
        ..PLAIN
    }]
}

struct Sync(Opened);

fn sync(setup: &Setup<'_>) -> Result<Sync> {
    File::create(setup.tree.path("work/synced"))?;
    let node = setup.node("work/synced")?;
    Ok(Sync(setup.client.open(node, libc::O_RDWR)?))
}

impl Actor for Sync {
    fn request(&mut self, step: usize, request: &mut Request) {
        let Opened { node, fh, .. } = self.0;
        if step == 0 {
            let body = WriteIn {
                fh,
                size: 4096,
                ..WriteIn::default()
            };
            request
                .begin(WRITE, node)
                .body(&body)
                .data(4096)
                .reply(size_of::<WriteOut>());
        } else {
            let body = FsyncIn {
                fh,
                ..FsyncIn::default()
            };
            request.begin(FSYNC, node).body(&body).reply(0);
        }
    }

    fn reply(&mut self, step: usize, reply: &Reply<'_>, _: &mut Vec<u64>) -> Result<Step> {
        reply.ok()?;
        Ok(if step == 0 { Step::Next } else { Step::Done(0) })
    }

    fn counts(&self) -> bool {
        false
    }
}
