//! READ and WRITE of a large file: random and in sequence, from the page cache and from the disk.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use vm_memory::{ReadVolatile, WriteVolatile};

use super::{Actors, Case, DISK, Extent, HostLoop, PLAIN, SMALL, Setup, Single, Unit, random};
use crate::actor::{Actor, Reply, Request};
use crate::tree::{self, Tree};
use airlockfs_tests::fuse::abi::{READ, ReadIn, WRITE, WriteIn, WriteOut};
use airlockfs_tests::vmm::memory::Memory;

/// Coprime to the number of blocks: `i * STRIDE` modulo that is a permutation without runs.
const STRIDE: u64 = 40_503;

pub(super) fn cases() -> Vec<Case> {
    const SEQUENTIAL: Case = Case {
        unit: Unit::Byte,
        room: 1 << 20,
        depths: &[1, 4, 16],
        ..PLAIN
    };
    vec![
        Case {
            name: "read-4k",
            about: "READ of 4 KiB at random, cached",
            actors: |setup| read(setup, 4096, Order::Random),
            host: Some(|tree| host_read(tree, 4096, Order::Random)),
            ..PLAIN
        },
        Case {
            name: "write-4k",
            about: "WRITE of 4 KiB at random",
            actors: |setup| write(setup, 4096, Order::Random),
            host: Some(|tree| host_write(tree, 4096, Order::Random)),
            room: SMALL,
            ..PLAIN
        },
        Case {
            name: "read-128k",
            about: "READ of 128 KiB in sequence, cached",
            actors: |setup| read(setup, 128 << 10, Order::Sequence),
            host_at: Some(|tree, depth| host_guest(tree, 128 << 10, depth, false)),
            ..SEQUENTIAL
        },
        Case {
            name: "write-128k",
            about: "WRITE of 128 KiB in sequence",
            actors: |setup| write(setup, 128 << 10, Order::Sequence),
            host_at: Some(|tree, depth| host_guest(tree, 128 << 10, depth, true)),
            ..SEQUENTIAL
        },
        Case {
            name: "read-1m",
            about: "READ of 1 MiB in sequence, cached",
            actors: |setup| read(setup, 1 << 20, Order::Sequence),
            host_at: Some(|tree, depth| host_guest(tree, 1 << 20, depth, false)),
            ..SEQUENTIAL
        },
        Case {
            name: "write-1m",
            about: "WRITE of 1 MiB in sequence",
            actors: |setup| write(setup, 1 << 20, Order::Sequence),
            host_at: Some(|tree, depth| host_guest(tree, 1 << 20, depth, true)),
            ..SEQUENTIAL
        },
        Case {
            name: "read-cold",
            about: "READ of 4 KiB from the disk, each block once, no two in a row",
            depths: &[1, 32],
            media: DISK,
            extent: Extent::Work,
            actors: |setup| {
                setup.tree.cool()?;
                cold(setup)
            },
            host: Some(|tree| {
                tree.cool()?;
                host_read(tree, 4096, Order::Once(Arc::default()))
            }),
            ..PLAIN
        },
    ]
}

/// Where the next request goes.
#[derive(Clone)]
enum Order {
    Random,
    Sequence,
    /// Every block once, in no order that readahead knows.
    Once(Arc<AtomicU64>),
}

impl Order {
    /// Offsets of blocks of `size` bytes. Actors with the same `shared` continue each other's sequence.
    fn offsets(
        self,
        slot: usize,
        size: usize,
        shared: Arc<AtomicU64>,
    ) -> impl FnMut() -> u64 + Send + 'static {
        let blocks = tree::DATA / size as u64;
        let mut random = random(slot);
        move || {
            let block = match &self {
                Self::Random => random() % blocks,
                Self::Sequence => shared.fetch_add(1, Ordering::Relaxed) % blocks,
                Self::Once(next) => next.fetch_add(1, Ordering::Relaxed) * STRIDE % blocks,
            };
            block * size as u64
        }
    }
}

fn read_actor(
    file: airlockfs_tests::fuse::Opened,
    size: usize,
    mut offset: impl FnMut() -> u64 + Send + 'static,
) -> impl Actor {
    Single {
        fill: move |request: &mut Request| {
            let body = ReadIn {
                fh: file.fh,
                offset: offset(),
                size: size as u32,
                ..ReadIn::default()
            };
            request.begin(READ, file.node).body(&body).reply(size);
        },
        take: move |reply: &Reply<'_>| {
            reply.ok()?;
            ensure!(reply.len() == size, "{} bytes of {size}", reply.len());
            Ok(if size > 4096 { size as u64 } else { 1 })
        },
    }
}

fn read(setup: &Setup<'_>, size: usize, order: Order) -> Result<Actors> {
    let file = setup.client.open(setup.node("data")?, libc::O_RDONLY)?;
    let shared = Arc::<AtomicU64>::default();
    setup.each(|slot| {
        Ok(read_actor(
            file,
            size,
            order.clone().offsets(slot, size, Arc::clone(&shared)),
        ))
    })
}

fn write(setup: &Setup<'_>, size: usize, order: Order) -> Result<Actors> {
    let file = setup.client.open(setup.node("data")?, libc::O_RDWR)?;
    let shared = Arc::<AtomicU64>::default();
    setup.each(|slot| {
        let mut offset = order.clone().offsets(slot, size, Arc::clone(&shared));
        Ok(Single {
            fill: move |request: &mut Request| {
                let body = WriteIn {
                    fh: file.fh,
                    offset: offset(),
                    size: size as u32,
                    ..WriteIn::default()
                };
                request
                    .begin(WRITE, file.node)
                    .body(&body)
                    .data(size)
                    .reply(size_of::<WriteOut>());
            },
            take: move |reply: &Reply<'_>| {
                ensure!(
                    reply.body::<WriteOut>(0)?.size as usize == size,
                    "not all was written"
                );
                Ok(if size > 4096 { size as u64 } else { 1 })
            },
        })
    })
}

/// Reads blocks until it had its share.
struct Cold<A> {
    read: A,
    left: u64,
}

fn cold(setup: &Setup<'_>) -> Result<Actors> {
    let file = setup.client.open(setup.node("data")?, libc::O_RDONLY)?;
    let order = Order::Once(Arc::default());
    let blocks = if setup.quick { 2048 } else { 8192 };
    setup.each(|slot| {
        Ok(Cold {
            read: read_actor(file, 4096, order.clone().offsets(slot, 4096, Arc::default())),
            left: blocks / setup.depth as u64,
        })
    })
}

impl<A: Actor> Actor for Cold<A> {
    fn more(&mut self) -> bool {
        let more = self.left > 0;
        self.left = self.left.saturating_sub(1);
        more
    }

    fn request(&mut self, step: usize, request: &mut Request) {
        self.read.request(step, request);
    }

    fn reply(
        &mut self,
        step: usize,
        reply: &Reply<'_>,
        forgets: &mut Vec<u64>,
    ) -> Result<crate::actor::Step> {
        self.read.reply(step, reply, forgets)
    }
}

fn host_read(tree: &Tree, size: usize, order: Order) -> Result<HostLoop> {
    let file = File::open(tree.path("data"))?;
    let mut buffer = vec![0; size];
    let mut offset = order.offsets(0, size, Arc::default());
    Ok(Box::new(move || {
        file.read_exact_at(&mut buffer, offset())?;
        Ok(1)
    }))
}

fn host_write(tree: &Tree, size: usize, order: Order) -> Result<HostLoop> {
    let file = File::options().write(true).open(tree.path("data"))?;
    let buffer = vec![0x5a; size];
    let mut offset = order.offsets(0, size, Arc::default());
    Ok(Box::new(move || {
        file.write_all_at(&buffer, offset())?;
        Ok(1)
    }))
}

/// Moves the file in sequence between itself and `depth` buffers in turn, where a guest's would be.
fn host_guest(tree: &Tree, size: usize, depth: usize, write: bool) -> Result<HostLoop> {
    let memory = Memory::new(size * depth)?;
    let buffers: Vec<u64> = (0..depth)
        .map(|_| memory.alloc(size, 4096))
        .collect::<Result<_>>()?;
    for buffer in &buffers {
        memory.write(*buffer, &vec![0x5a; size]);
    }
    let mut file = File::options().read(true).write(write).open(tree.path("data"))?;
    let mut offset = Order::Sequence.offsets(0, size, Arc::default());
    let mut turn = buffers.into_iter().cycle();
    Ok(Box::new(move || {
        let mut buffer = memory.slice(turn.next().context("a buffer")?, size);
        file.seek(SeekFrom::Start(offset()))?;
        if write {
            file.write_all_volatile(&buffer)?;
        } else {
            file.read_exact_volatile(&mut buffer)?;
        }
        Ok(size as u64)
    }))
}
