//! What makes and removes: CREATE, UNLINK, MKDIR, RMDIR.

use std::fs;
use std::io::Write;

use anyhow::{Result, ensure};

use super::{Actors, Case, PLAIN, Setup};
use crate::actor::{Actor, Reply, Request, Step};
use airlockfs_tests::fuse::abi::{
    CREATE, CreateIn, EntryOut, MKDIR, MkdirIn, OpenOut, RELEASE, RMDIR, ReleaseIn, UNLINK, WRITE, WriteIn,
    WriteOut,
};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "create-unlink",
            about: "CREATE, RELEASE, UNLINK, FORGET",
            actors: |setup| create(setup, false),
            host: Some(|tree| {
                let path = tree.path("work/host");
                Ok(Box::new(move || {
                    fs::File::create(&path)?;
                    fs::remove_file(&path)?;
                    Ok(1)
                }))
            }),
            ..PLAIN
        },
        Case {
            name: "create-write-unlink",
            about: "CREATE, WRITE of 4 KiB, RELEASE, UNLINK, FORGET",
            actors: |setup| create(setup, true),
            host: Some(|tree| {
                let path = tree.path("work/host");
                Ok(Box::new(move || {
                    fs::File::create(&path)?.write_all(&[b'x'; 4096])?;
                    fs::remove_file(&path)?;
                    Ok(1)
                }))
            }),
            ..PLAIN
        },
        Case {
            name: "mkdir-rmdir",
            about: "MKDIR, RMDIR, FORGET",
            actors: mkdir,
            host: Some(|tree| {
                let path = tree.path("work/host-dir");
                Ok(Box::new(move || {
                    fs::create_dir(&path)?;
                    fs::remove_dir(&path)?;
                    Ok(1)
                }))
            }),
            ..PLAIN
        },
    ]
}

struct Create {
    dir: u64,
    name: String,
    write: bool,
    node: u64,
    fh: u64,
}

fn create(setup: &Setup<'_>, write: bool) -> Result<Actors> {
    let dir = setup.node("work")?;
    setup.each(|slot| {
        Ok(Create {
            dir,
            name: format!("created-{slot}"),
            write,
            node: 0,
            fh: 0,
        })
    })
}

impl Create {
    /// The step that removes it.
    const fn last(&self) -> usize {
        if self.write { 3 } else { 2 }
    }
}

impl Actor for Create {
    fn request(&mut self, step: usize, request: &mut Request) {
        match step {
            0 => {
                let body = CreateIn {
                    flags: (libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY) as u32,
                    mode: libc::S_IFREG | 0o644,
                    umask: 0o022,
                    open_flags: 0,
                };
                let room = size_of::<EntryOut>() + size_of::<OpenOut>();
                request
                    .begin(CREATE, self.dir)
                    .body(&body)
                    .name(self.name.as_bytes())
                    .reply(room);
            }
            1 if self.write => {
                let body = WriteIn {
                    fh: self.fh,
                    size: 4096,
                    ..WriteIn::default()
                };
                request
                    .begin(WRITE, self.node)
                    .body(&body)
                    .data(4096)
                    .reply(size_of::<WriteOut>());
            }
            _ if step == self.last() - 1 => {
                let body = ReleaseIn {
                    fh: self.fh,
                    ..ReleaseIn::default()
                };
                request.begin(RELEASE, self.node).body(&body).reply(0);
            }
            _ => request
                .begin(UNLINK, self.dir)
                .name(self.name.as_bytes())
                .reply(0),
        }
    }

    fn reply(&mut self, step: usize, reply: &Reply<'_>, forgets: &mut Vec<u64>) -> Result<Step> {
        match step {
            0 => {
                self.node = reply.body::<EntryOut>(0)?.nodeid;
                self.fh = reply.body::<OpenOut>(size_of::<EntryOut>())?.fh;
            }
            1 if self.write => ensure!(reply.body::<WriteOut>(0)?.size == 4096, "not all was written"),
            _ if step < self.last() => reply.ok()?,
            _ => {
                reply.ok()?;
                forgets.push(self.node);
                return Ok(Step::Done(1));
            }
        }
        Ok(Step::Next)
    }
}

struct Mkdir {
    dir: u64,
    name: String,
    node: u64,
}

fn mkdir(setup: &Setup<'_>) -> Result<Actors> {
    let dir = setup.node("work")?;
    setup.each(|slot| {
        Ok(Mkdir {
            dir,
            name: format!("dir-{slot}"),
            node: 0,
        })
    })
}

impl Actor for Mkdir {
    fn request(&mut self, step: usize, request: &mut Request) {
        if step == 0 {
            let body = MkdirIn {
                mode: 0o755,
                umask: 0o022,
            };
            request
                .begin(MKDIR, self.dir)
                .body(&body)
                .name(self.name.as_bytes())
                .reply(size_of::<EntryOut>());
        } else {
            request.begin(RMDIR, self.dir).name(self.name.as_bytes()).reply(0);
        }
    }

    fn reply(&mut self, step: usize, reply: &Reply<'_>, forgets: &mut Vec<u64>) -> Result<Step> {
        if step == 0 {
            self.node = reply.body::<EntryOut>(0)?.nodeid;
            return Ok(Step::Next);
        }
        reply.ok()?;
        forgets.push(self.node);
        Ok(Step::Done(1))
    }
}
