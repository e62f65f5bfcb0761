//! Whatever a guest writes into its rings, the daemon goes on, serves the other queues, and works
//! again after a reset.

use std::time::{Duration, Instant};

use airlockfs_tests::daemon::{Daemon, on_disconnect};
use airlockfs_tests::fuse::abi::{GETATTR, GetattrIn, IN_HEADER, InHeader, ROOT};
use airlockfs_tests::fuse::{Client, SessionConfig};
use airlockfs_tests::stop::Stop;
use airlockfs_tests::vmm::memory::{GUEST_BASE, Memory};
use airlockfs_tests::vmm::ring::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Desc};
use airlockfs_tests::vmm::{HIPRIO, VmmConfig, fds};
use std::os::fd::AsFd;
use zerocopy::IntoBytes;

const SIZE: u16 = 64;

fn started(indirect: bool) -> (Daemon, Client) {
    let daemon = Daemon::start([on_disconnect(env!("CARGO_CRATE_NAME")), "--num-request-queues=2"]);
    let fs = daemon.connect_with(&SessionConfig {
        vmm: VmmConfig {
            queue_size: SIZE,
            indirect,
            ..SessionConfig::default().vmm
        },
        ..SessionConfig::default()
    });
    fs.init().expect("INIT");
    (daemon, fs)
}

/// A good request and room for its reply, in memory of its own.
fn buffers(fs: &Client) -> (u64, usize, u64, usize) {
    let memory = fs.session().vmm().memory();
    let header = InHeader {
        len: (IN_HEADER + size_of::<GetattrIn>()) as u32,
        ..fs.header(GETATTR, ROOT)
    };
    let request = [header.as_bytes(), GetattrIn::default().as_bytes()].concat();
    let at = memory.alloc(request.len(), 64).expect("memory");
    memory.write(at, &request);
    let reply = memory.alloc(4096, 64).expect("memory");
    (at, request.len(), reply, 4096)
}

/// Writes descriptors and publishes one head, then looks for a completion for a short while: there may be none.
fn attack(fs: &Client, descs: &[(u16, Desc)], heads: &[u16]) {
    let vmm = fs.session().vmm();
    let mut queue = vmm.queue(1);
    let ring = queue.ring();
    for (index, desc) in descs {
        ring.set_desc(vmm.memory(), *index, *desc);
    }
    queue.publish_raw(heads);
    let call = queue.call_fd();
    let deadline = Instant::now() + Duration::from_millis(30);
    for _ in heads {
        while queue.take_raw().is_none() && Instant::now() < deadline {
            if queue.arm() {
                fds::wait([call.as_fd()], 10);
            }
        }
    }
}

/// The daemon lives, its first queue works, and after a reset everything does.
fn assert_recovers(daemon: &Daemon, fs: &Client, what: &str) {
    assert!(daemon.is_alive(), "{what} ended the daemon");
    fs.forget(1 << 40, 1);
    fs.session()
        .vmm()
        .reset()
        .unwrap_or_else(|e| panic!("{what}: {e:#}"));
    fs.init().unwrap_or_else(|e| panic!("{what}: INIT: {e}"));
    fs.getattr(ROOT)
        .unwrap_or_else(|e| panic!("{what}: GETATTR: {e}"));
}

fn desc(addr: u64, len: usize, flags: u16, next: u16) -> Desc {
    Desc {
        addr,
        len: len as u32,
        flags,
        next,
    }
}

#[test]
fn addresses_outside_memory_are_refused() {
    let (daemon, fs) = started(false);
    let (request, request_len, reply, reply_len) = buffers(&fs);
    let end = fs.session().vmm().memory().end();
    let bad = [
        (0, 64),
        (GUEST_BASE - 1, 64),
        (end, 64),
        (end - 8, 64),
        (u64::MAX - 8, 64),
        (u64::MAX, 1),
        (GUEST_BASE, u32::MAX as usize),
        (1 << 63, 4096),
    ];
    for (addr, len) in bad {
        attack(
            &fs,
            &[
                (0, desc(addr, len, DESC_NEXT, 1)),
                (1, desc(reply, reply_len, DESC_WRITE, 0)),
            ],
            &[0],
        );
        assert_recovers(&daemon, &fs, &format!("a request at {addr:#x}"));
        attack(
            &fs,
            &[
                (0, desc(request, request_len, DESC_NEXT, 1)),
                (1, desc(addr, len, DESC_WRITE, 0)),
            ],
            &[0],
        );
        assert_recovers(&daemon, &fs, &format!("a reply at {addr:#x}"));
    }
}

#[test]
fn chains_that_loop_or_lead_nowhere_are_refused() {
    let (daemon, fs) = started(false);
    let (request, request_len, reply, reply_len) = buffers(&fs);
    let first = |next: u16| (0, desc(request, request_len, DESC_NEXT, next));
    let cases: [(&str, Vec<(u16, Desc)>); 6] = [
        ("a chain that is its own next", vec![first(0)]),
        (
            "a loop of two",
            vec![first(1), (1, desc(reply, reply_len, DESC_WRITE | DESC_NEXT, 0))],
        ),
        ("a next at the table's end", vec![first(SIZE)]),
        ("a next far behind the table", vec![first(u16::MAX)]),
        (
            "replies before requests",
            vec![
                (0, desc(reply, reply_len, DESC_WRITE | DESC_NEXT, 1)),
                (1, desc(request, request_len, 0, 0)),
            ],
        ),
        (
            "nothing but zero lengths",
            vec![
                (0, desc(request, 0, DESC_NEXT, 1)),
                (1, desc(reply, 0, DESC_WRITE, 0)),
            ],
        ),
    ];
    for (what, descs) in cases {
        attack(&fs, &descs, &[0]);
        assert_recovers(&daemon, &fs, what);
    }
    // As long as the whole table.
    let all: Vec<_> = (0..SIZE)
        .map(|i| {
            let next = if i + 1 < SIZE { DESC_NEXT } else { 0 };
            (i, desc(request, 1, next, (i + 1) % SIZE))
        })
        .collect();
    attack(&fs, &all, &[0]);
    assert_recovers(&daemon, &fs, "a chain of the whole table");
}

#[test]
fn heads_and_indexes_out_of_range_are_refused() {
    let (daemon, fs) = started(false);
    let (request, request_len, reply, reply_len) = buffers(&fs);
    let good = [
        (0, desc(request, request_len, DESC_NEXT, 1)),
        (1, desc(reply, reply_len, DESC_WRITE, 0)),
    ];
    for head in [SIZE, SIZE + 1, u16::MAX] {
        attack(&fs, &good, &[head]);
        assert_recovers(&daemon, &fs, &format!("head {head}"));
    }
    // One chain, many times at once.
    attack(&fs, &good, &[0; 20]);
    assert_recovers(&daemon, &fs, "one head twenty times");
    for jump in [SIZE + 1, 1000, 0x8000, u16::MAX] {
        let vmm = fs.session().vmm();
        {
            let queue = vmm.queue(1);
            let ring = queue.ring();
            for (index, desc) in good {
                ring.set_desc(vmm.memory(), index, desc);
            }
            let index = ring.avail_index(vmm.memory()).wrapping_add(jump);
            ring.set_avail_index(vmm.memory(), index);
            queue.kick();
        }
        assert_recovers(&daemon, &fs, &format!("an index that jumps by {jump}"));
    }
}

#[test]
fn indirect_tables_of_the_wrong_make_are_refused() {
    let (daemon, fs) = started(true);
    let (request, request_len, reply, reply_len) = buffers(&fs);
    let memory = fs.session().vmm().memory();
    let table = memory.alloc(1 << 20, 4096).expect("memory");
    let fill = |memory: &Memory, descs: &[Desc]| memory.write(table, descs.as_bytes());
    let good = [
        desc(request, request_len, DESC_NEXT, 1),
        desc(reply, reply_len, DESC_WRITE, 0),
    ];

    for (what, len, flags) in [
        ("a table of no length", 0, DESC_INDIRECT),
        ("a table of half a descriptor", 24, DESC_INDIRECT),
        ("a table of 15 bytes", 15, DESC_INDIRECT),
        (
            "an indirect descriptor with a next",
            32,
            DESC_INDIRECT | DESC_NEXT,
        ),
        (
            "an indirect descriptor to be written",
            32,
            DESC_INDIRECT | DESC_WRITE,
        ),
        ("a table beyond memory", u32::MAX as usize, DESC_INDIRECT),
    ] {
        fill(memory, &good);
        attack(&fs, &[(0, desc(table, len, flags, 1))], &[0]);
        assert_recovers(&daemon, &fs, what);
    }
    fill(memory, &[desc(table, 32, DESC_INDIRECT, 0), good[1]]);
    attack(&fs, &[(0, desc(table, 32, DESC_INDIRECT, 0))], &[0]);
    assert_recovers(&daemon, &fs, "a table within a table");
    fill(memory, &[desc(request, request_len, DESC_NEXT, 0), good[1]]);
    attack(&fs, &[(0, desc(table, 32, DESC_INDIRECT, 0))], &[0]);
    assert_recovers(&daemon, &fs, "a loop in a table");
    fill(memory, &[desc(request, request_len, DESC_NEXT, 500), good[1]]);
    attack(&fs, &[(0, desc(table, 32, DESC_INDIRECT, 0))], &[0]);
    assert_recovers(&daemon, &fs, "a next behind the table");
    for address in [0, u64::MAX - 15, memory.end() - 16] {
        attack(&fs, &[(0, desc(address, 32, DESC_INDIRECT, 0))], &[0]);
        assert_recovers(&daemon, &fs, &format!("a table at {address:#x}"));
    }
    // As large as the length field of a table can be chained: 65,536 descriptors, all of them good.
    let huge: Vec<Desc> = (0..=u16::MAX)
        .map(|i| {
            let next = if i < u16::MAX { DESC_NEXT } else { 0 };
            desc(request, 1, next, i.wrapping_add(1))
        })
        .collect();
    fill(memory, &huge);
    attack(&fs, &[(0, desc(table, 16 * huge.len(), DESC_INDIRECT, 0))], &[0]);
    assert_recovers(&daemon, &fs, "a table of 65,536");
}

#[test]
fn the_first_queue_is_as_sturdy_as_the_others() {
    let (daemon, fs) = started(false);
    let vmm = fs.session().vmm();
    let (request, _, reply, reply_len) = buffers(&fs);
    for descs in [
        [desc(0, 64, DESC_NEXT, 1), desc(reply, reply_len, DESC_WRITE, 0)],
        [
            desc(request, 10, DESC_NEXT, 0),
            desc(reply, reply_len, DESC_WRITE, 0),
        ],
        [desc(reply, reply_len, DESC_WRITE, 0), Desc::default()],
    ] {
        {
            let mut queue = vmm.queue(0);
            let ring = queue.ring();
            for (index, desc) in descs.iter().enumerate() {
                ring.set_desc(vmm.memory(), index as u16, *desc);
            }
            queue.publish_raw(&[0]);
        }
        fs.getattr(ROOT).expect("the other queue serves");
        vmm.reset().expect("reset");
        fs.init().expect("INIT");
        fs.forget(1 << 40, 1);
        assert!(daemon.is_alive());
    }
}

#[test]
fn a_request_that_changes_while_it_is_read_is_one_request() {
    let (daemon, fs) = started(true);
    std::fs::write(daemon.host("file"), "text").expect("write");
    std::fs::create_dir(daemon.host("dir")).expect("mkdir");
    let stop = Stop::default();
    let (address, len, header) = {
        let lane = fs.session().lane(1);
        let header = fs.header(airlockfs_tests::fuse::abi::LOOKUP, ROOT);
        let slot = airlockfs_tests::fuse::SlotId(0);
        let len = lane.write(slot, header, &[b"file\0"]);
        (lane.addresses(slot).0, len, header)
    };
    let memory = fs.session().vmm().memory();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut i = 0u8;
            while !stop.is_raised() {
                // The name, its NUL, and the length in the header.
                memory.write(address + IN_HEADER as u64, b"../..");
                memory.write(address, &u32::MAX.to_le_bytes());
                memory.write(address + IN_HEADER as u64, b"file\0");
                memory.write(address, &(len as u32).to_le_bytes());
                i = i.wrapping_add(1);
                if i == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let _guard = stop.guard();
        for _ in 0..5000 {
            let mut lane = fs.session().lane(1);
            let slot = lane.acquire().expect("a slot");
            assert_eq!(lane.addresses(slot).0, address, "the slot that is being written");
            lane.submit(slot, len, 4096);
            lane.flush();
            match lane.wait_for(slot, Duration::from_secs(30)) {
                airlockfs_tests::fuse::Wait::Done(done) if done.len > 16 => {
                    let reply = lane.reply_header(slot);
                    assert_eq!((reply.error, reply.unique), (0, header.unique));
                }
                airlockfs_tests::fuse::Wait::Done(_) => {}
                other => panic!("{other:?}"),
            }
            lane.release(slot);
        }
    });
    assert!(daemon.is_alive());
    fs.lookup(ROOT, "file").expect("LOOKUP");
}

/// A VMM may take a kick back: it does when it stops a ring, and QEMU stops them when a guest reboots.
#[test]
fn a_kick_that_is_taken_back_ends_no_queue() {
    let (daemon, fs) = started(true);
    for queue in [HIPRIO, 1] {
        for _ in 0..20_000 {
            let queue = fs.session().vmm().queue(queue);
            queue.kick();
            queue.take_kicks_back();
        }
    }
    assert_recovers(&daemon, &fs, "kicks that were taken back");
}
