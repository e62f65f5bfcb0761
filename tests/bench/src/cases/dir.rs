//! Listings: READDIR, READDIRPLUS.

use std::fs;

use anyhow::{Context, Result, ensure};
use zerocopy::FromBytes;

use super::{Actors, Case, PLAIN, Setup, Unit};
use crate::actor::{Actor, Reply, Request, Step};
use crate::tree;
use airlockfs_tests::fuse::abi::{
    Dirent, EntryOut, OPENDIR, OpenIn, OpenOut, READDIR, READDIRPLUS, RELEASEDIR, ReadIn, ReleaseIn,
};

/// What Linux from 6.16 on asks for on behalf of glibc's readdir.
const WINDOW: usize = 32 << 10;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "readdir",
            about: "an entry of OPENDIR, READDIR of 10,000 entries by 32 KiB, RELEASEDIR",
            unit: Unit::Entry,
            room: WINDOW,
            actors: |setup| big(setup, false),
            host: Some(|tree| host_list(tree, false)),
            ..PLAIN
        },
        Case {
            name: "readdirplus",
            about: "an entry of OPENDIR, READDIRPLUS of 10,000 known entries by 32 KiB, RELEASEDIR",
            unit: Unit::Entry,
            room: WINDOW,
            actors: |setup| big(setup, true),
            host: Some(|tree| host_list(tree, true)),
            ..PLAIN
        },
        Case {
            name: "readdirplus-new",
            about: "an entry of OPENDIR, READDIRPLUS of 1,000 new entries by 32 KiB, RELEASEDIR, and its FORGET",
            unit: Unit::Entry,
            room: WINDOW,
            actors: new_entries,
            host: None,
            ..PLAIN
        },
    ]
}

fn host_list(tree: &tree::Tree, stat: bool) -> Result<super::HostLoop> {
    let path = tree.path("big");
    Ok(Box::new(move || {
        let mut count = 0;
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            if stat {
                entry.metadata()?;
            }
            count += 1;
        }
        Ok(count)
    }))
}

struct List {
    dirs: Vec<u64>,
    at: usize,
    plus: bool,
    forget: bool,
    fh: u64,
    offset: u64,
    entries: u64,
    end: bool,
    reply: Vec<u8>,
}

impl List {
    fn new(dirs: Vec<u64>, plus: bool, forget: bool) -> Self {
        Self {
            dirs,
            at: 0,
            plus,
            forget,
            fh: 0,
            offset: 0,
            entries: 0,
            end: false,
            reply: Vec::with_capacity(WINDOW),
        }
    }

    fn take(&mut self, forgets: &mut Vec<u64>) -> Result<()> {
        let mut rest = &self.reply[..];
        self.end = rest.is_empty();
        while !rest.is_empty() {
            if self.plus {
                let (entry, behind) = EntryOut::ref_from_prefix(rest).ok().context("a whole entry")?;
                rest = behind;
                if self.forget && entry.nodeid != 0 {
                    forgets.push(entry.nodeid);
                }
            }
            let (head, _) = Dirent::ref_from_prefix(rest).ok().context("a whole entry")?;
            let len = (size_of::<Dirent>() + head.namelen as usize).next_multiple_of(8);
            self.offset = head.off;
            self.entries += 1;
            rest = rest.get(len..).context("an entry cut short")?;
        }
        Ok(())
    }
}

fn big(setup: &Setup<'_>, plus: bool) -> Result<Actors> {
    let dir = setup.node("big")?;
    if plus {
        let handle = setup.client.opendir(dir)?;
        let entries = setup.client.readdirplus_all(handle, 64 << 10)?;
        ensure!(entries.len() >= tree::BIG_DIR, "{} entries", entries.len());
        setup.client.releasedir(handle)?;
    }
    setup.each(|_| Ok(List::new(vec![dir], plus, false)))
}

fn new_entries(setup: &Setup<'_>) -> Result<Actors> {
    let nodes = (0..tree::NAME_DIRS).map(|d| setup.node(&tree::names_dir(d)));
    let nodes: Vec<u64> = nodes.collect::<Result<_>>()?;
    // Each actor has directories of its own, so that what it lists is forgotten when it comes around again.
    setup.each(|slot| {
        let own = nodes.iter().copied().skip(slot).step_by(setup.depth).collect();
        Ok(List::new(own, true, true))
    })
}

impl Actor for List {
    fn request(&mut self, step: usize, request: &mut Request) {
        let dir = self.dirs[self.at];
        if step == 0 {
            let body = OpenIn {
                flags: (libc::O_RDONLY | libc::O_DIRECTORY) as u32,
                open_flags: 0,
            };
            request
                .begin(OPENDIR, dir)
                .body(&body)
                .reply(size_of::<OpenOut>());
        } else if !self.end {
            let opcode = if self.plus { READDIRPLUS } else { READDIR };
            let body = ReadIn {
                fh: self.fh,
                offset: self.offset,
                size: WINDOW as u32,
                ..ReadIn::default()
            };
            request.begin(opcode, dir).body(&body).reply(WINDOW);
        } else {
            let body = ReleaseIn {
                fh: self.fh,
                ..ReleaseIn::default()
            };
            request.begin(RELEASEDIR, dir).body(&body).reply(0);
        }
    }

    fn reply(&mut self, step: usize, reply: &Reply<'_>, forgets: &mut Vec<u64>) -> Result<Step> {
        if step == 0 {
            self.fh = reply.body::<OpenOut>(0)?.fh;
            (self.offset, self.entries, self.end) = (0, 0, false);
        } else if !self.end {
            reply.bytes(&mut self.reply)?;
            self.take(forgets)?;
        } else {
            reply.ok()?;
            self.at = (self.at + 1) % self.dirs.len();
            return Ok(Step::Done(self.entries));
        }
        Ok(Step::Next)
    }
}
