//! `--posix-lock` and `--flock`: locks are the host's, so that two guests on one directory exclude each other; one that
//! waits holds up nobody.

use std::time::Duration;

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::{FileLock, GETATTR, INTERRUPT, InterruptIn, LkIn, ROOT, SETLKW};
use airlockfs_tests::fuse::{Client, Lane, Opened, SlotId, Wait};
use airlockfs_tests::placement::Placement;
use airlockfs_tests::procfs::Processes;
use nix::errno::Errno;
use zerocopy::IntoBytes;

const OPTIONS: [&str; 2] = ["--posix-lock", "--flock"];
const PATIENCE: Duration = Duration::from_secs(30);

fn lock(kind: i32, start: u64, end: u64) -> FileLock {
    FileLock {
        start,
        end,
        kind: kind as u32,
        pid: 1,
    }
}

fn write_lock() -> FileLock {
    lock(libc::F_WRLCK, 0, i64::MAX as u64)
}

fn unlock() -> FileLock {
    lock(libc::F_UNLCK, 0, i64::MAX as u64)
}

/// Two daemons on one directory, as for two guests, with one file open in both.
fn two_guests() -> [(Daemon, Client, Opened); 2] {
    let first = Daemon::start(OPTIONS);
    let second = Launch::airlockfs().args(OPTIONS).share(first.share()).start();
    [first, second].map(|daemon| {
        let fs = daemon.client();
        let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
        (daemon, fs, file)
    })
}

#[test]
fn record_locks_exclude_other_owners_and_other_guests() {
    let [(_a, one, file), (_b, two, other)] = two_guests();
    one.setlk(file, 10, lock(libc::F_WRLCK, 0, 99)).expect("SETLK");
    one.setlk(file, 10, lock(libc::F_WRLCK, 50, 149))
        .expect("its own lock grows");
    for (fs, file, owner) in [(&one, file, 11), (&two, other, 10)] {
        let errno = fs.setlk(file, owner, lock(libc::F_RDLCK, 140, 140));
        assert_eq!(errno, Err(Errno::EAGAIN), "owner {owner}");
        let found = fs.getlk(file, owner, lock(libc::F_RDLCK, 0, 200)).expect("GETLK");
        assert_eq!(
            (found.kind, found.start, found.end),
            (libc::F_WRLCK as u32, 0, 149)
        );
        fs.setlk(file, owner, lock(libc::F_WRLCK, 150 + owner, 150 + owner))
            .expect("elsewhere");
    }
    let own = one.getlk(file, 10, lock(libc::F_RDLCK, 0, 100)).expect("GETLK");
    assert_eq!(
        own.kind,
        libc::F_UNLCK as u32,
        "one's own locks are not in the way"
    );
    one.setlk(file, 10, lock(libc::F_UNLCK, 100, 149))
        .expect("unlock a part");
    two.setlk(other, 10, lock(libc::F_WRLCK, 100, 149))
        .expect("SETLK");
    assert_eq!(
        two.setlk(other, 10, lock(libc::F_WRLCK, 99, 99)),
        Err(Errno::EAGAIN)
    );
}

#[test]
fn readers_share() {
    let [(_a, one, file), (_b, two, other)] = two_guests();
    one.setlk(file, 1, lock(libc::F_RDLCK, 0, 9)).expect("SETLK");
    one.setlk(file, 2, lock(libc::F_RDLCK, 0, 9)).expect("SETLK");
    two.setlk(other, 1, lock(libc::F_RDLCK, 0, 9)).expect("SETLK");
    assert_eq!(two.setlk(other, 1, lock(libc::F_WRLCK, 0, 9)), Err(Errno::EAGAIN));
}

#[test]
fn closing_drops_the_owners_locks() {
    let [(_a, one, file), (_b, two, other)] = two_guests();
    one.setlk(file, 7, write_lock()).expect("SETLK");
    assert_eq!(two.setlk(other, 7, write_lock()), Err(Errno::EAGAIN));
    let flush = airlockfs_tests::fuse::abi::FlushIn {
        fh: file.fh,
        lock_owner: 8,
        ..Default::default()
    };
    let body = flush.as_bytes().to_vec();
    one.raw(airlockfs_tests::fuse::abi::FLUSH, file.node, &body, 0);
    assert_eq!(
        two.setlk(other, 7, write_lock()),
        Err(Errno::EAGAIN),
        "another owner's close"
    );
    let flush = airlockfs_tests::fuse::abi::FlushIn {
        lock_owner: 7,
        ..flush
    };
    one.raw(airlockfs_tests::fuse::abi::FLUSH, file.node, flush.as_bytes(), 0);
    two.setlk(other, 7, write_lock())
        .expect("SETLK after the owner's close");
}

#[test]
fn flock_locks_exclude_and_go_with_release() {
    let [(_a, one, file), (_b, two, other)] = two_guests();
    let (exclusive, shared, none) = (libc::F_WRLCK as u32, libc::F_RDLCK as u32, libc::F_UNLCK as u32);
    one.flock(file, 1, exclusive).expect("flock");
    assert_eq!(two.flock(other, 1, shared), Err(Errno::EAGAIN));
    one.flock(file, 1, shared).expect("down to shared");
    two.flock(other, 1, shared).expect("flock");
    assert_eq!(one.flock(file, 1, exclusive), Err(Errno::EAGAIN));
    two.flock(other, 1, none).expect("unlock");
    one.flock(file, 1, exclusive).expect("flock");
    // flock(2) and fcntl(2) locks do not know each other.
    two.setlk(other, 1, write_lock()).expect("SETLK");
    one.release(file).expect("RELEASE");
    two.flock(other, 1, exclusive)
        .expect("flock after the other's close");
}

/// Sends SETLKW and leaves it waiting.
fn wait_for_lock(fs: &Client, lane: &mut Lane, file: Opened, owner: u64) -> (SlotId, u64) {
    let body = LkIn {
        fh: file.fh,
        owner,
        lk: write_lock(),
        ..LkIn::default()
    };
    let header = fs.header(SETLKW, file.node);
    let slot = lane.acquire().expect("a slot");
    let len = lane.write(slot, header, &[body.as_bytes()]);
    lane.submit(slot, len, 16);
    lane.flush();
    (slot, header.unique)
}

fn errno_of(lane: &mut Lane, slot: SlotId) -> i32 {
    match lane.wait_for(slot, PATIENCE) {
        Wait::Done(_) => {
            let error = lane.reply_header(slot).error;
            lane.release(slot);
            -error
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lock_that_waits_holds_up_nobody_and_comes_when_it_may() {
    let [(_a, one, file), (_b, two, other)] = two_guests();
    one.setlk(file, 1, write_lock()).expect("SETLK");
    let session = two.session().clone();
    let mut waiting: Vec<_> = (100..103u64)
        .map(|owner| (wait_for_lock(&two, &mut session.lane(1), other, owner).0, owner))
        .collect();
    // Everything else is served meanwhile, on the same queue.
    for _ in 0..100 {
        two.getattr(ROOT).expect("GETATTR");
        assert_eq!(two.write(other, 0, b"text"), Ok(4));
    }
    two.fsync(other, false).expect("FSYNC");
    assert!(session.lane(1).poll().is_none(), "nobody has the lock");
    one.setlk(file, 1, unlock()).expect("unlock");
    // One after the other gets it.
    while !waiting.is_empty() {
        let mut lane = session.lane(1);
        let Wait::Done(done) = lane.wait(PATIENCE) else {
            panic!("{} never got the lock", waiting.len());
        };
        assert_eq!(lane.reply_header(done.slot).error, 0);
        lane.release(done.slot);
        drop(lane);
        let at = waiting
            .iter()
            .position(|(slot, _)| *slot == done.slot)
            .expect("it waited");
        let (_, owner) = waiting.remove(at);
        assert_eq!(one.setlk(file, 1, write_lock()), Err(Errno::EAGAIN));
        two.setlk(other, owner, unlock()).expect("unlock");
    }
}

/// The guest on one CPU, both processes on another, where they take turns and the guest's requests go to the worker
/// piece by piece.
#[test]
fn a_lock_that_waits_holds_up_nobody_where_both_processes_share_a_cpu() {
    const AT_ONCE: usize = 16;
    let [(_a, one, file), (b, two, other)] = two_guests();
    let processes = Processes::below(b.supervisor().pid()).expect("a pair");
    let pinned = Placement::Apart.pin_daemon(&processes);
    // Where there is one CPU, or others than these, all else holds as well.
    if let Err(error) = pinned.and_then(|()| Placement::Apart.pin_front_end()) {
        eprintln!("each runs where it may: {error:#}");
    }
    let mut lane = Lane::new(two.session().vmm(), 1, AT_ONCE + 1, 4096, 4096).expect("a lane");
    let at_once = |lane: &mut Lane| {
        let slots: Vec<SlotId> = (0..AT_ONCE)
            .map(|_| {
                let slot = lane.acquire().expect("a slot");
                let length = lane.write(slot, two.header(GETATTR, ROOT), &[&[0; 16]]);
                lane.submit(slot, length, 200);
                slot
            })
            .collect();
        lane.flush();
        for slot in slots {
            assert_eq!(errno_of(lane, slot), 0);
        }
    };
    one.setlk(file, 1, write_lock()).expect("SETLK");
    // By then the daemon has seen where the guest runs; as long as the lock waits, it does not find out anew.
    (0..1000).for_each(|_| at_once(&mut lane));
    let (waiting, _) = wait_for_lock(&two, &mut lane, other, 5);
    (0..1000).for_each(|_| at_once(&mut lane));
    one.setlk(file, 1, unlock()).expect("unlock");
    assert_eq!(errno_of(&mut lane, waiting), 0);
}

#[test]
fn a_lock_that_waits_ends_with_its_connection() {
    let [(_a, one, file), (mut b, two, other)] = two_guests();
    one.setlk(file, 1, write_lock()).expect("SETLK");
    let mut lane = two.session().lane(1);
    wait_for_lock(&two, &mut lane, other, 5);
    drop(lane);
    drop(two);
    assert_eq!(b.wait().code(), Some(0));
}

#[test]
fn a_pause_does_not_wait_for_a_lock_and_loses_none() {
    let [(_a, one, file), (_b, two, other)] = two_guests();
    one.setlk(file, 1, write_lock()).expect("SETLK");
    let session = two.session().clone();
    let (slot, _) = wait_for_lock(&two, &mut session.lane(1), other, 5);
    two.on_queue(1).getattr(ROOT).expect("GETATTR");
    let base = session.vmm().stop_queue(1).expect("GET_VRING_BASE");
    one.setlk(file, 1, unlock()).expect("unlock");
    session.vmm().start_queue(1, base).expect("start");
    assert_eq!(errno_of(&mut session.lane(1), slot), 0);
    assert_eq!(one.setlk(file, 1, write_lock()), Err(Errno::EAGAIN));
}

#[test]
fn a_reboot_does_not_wait_for_a_lock_and_forgets_it() {
    let [(_a, one, file), (_b, two, other)] = two_guests();
    one.setlk(file, 1, write_lock()).expect("SETLK");
    wait_for_lock(&two, &mut two.session().lane(1), other, 5);
    two.on_queue(1).getattr(ROOT).expect("GETATTR");
    two.session().vmm().reset().expect("reset");
    two.init().expect("INIT");
    one.setlk(file, 1, unlock()).expect("unlock");
    for _ in 0..100 {
        two.on_queue(1).getattr(ROOT).expect("GETATTR");
    }
    one.setlk(file, 1, write_lock())
        .expect("nobody got it in the meantime");
}

#[test]
fn an_interrupt_ends_a_wait_and_nothing_else() {
    let [(_a, one, file), (_b, two, other)] = two_guests();
    one.setlk(file, 1, write_lock()).expect("SETLK");
    let session = two.session().clone();
    let (slot, unique) = wait_for_lock(&two, &mut session.lane(1), other, 5);
    two.getattr(ROOT).expect("GETATTR");
    two.raw(INTERRUPT, 0, InterruptIn { unique }.as_bytes(), 0);
    two.raw(INTERRUPT, 0, InterruptIn { unique: u64::MAX }.as_bytes(), 0);
    assert_eq!(errno_of(&mut session.lane(1), slot), libc::EINTR);
    one.setlk(file, 1, unlock()).expect("unlock");
    one.setlk(file, 1, write_lock()).expect("nobody else has it");
}

#[test]
fn a_guests_end_drops_its_locks() {
    let [(mut a, one, file), (_b, two, other)] = two_guests();
    one.setlk(file, 1, write_lock()).expect("SETLK");
    one.flock(file, 1, libc::F_WRLCK as u32).expect("flock");
    let worker = a.worker().expect("a worker");
    drop(one);
    a.wait();
    assert!(worker.ended_within(10_000));
    two.setlk(other, 1, write_lock()).expect("SETLK");
    two.flock(other, 1, libc::F_WRLCK as u32).expect("flock");
}

#[test]
fn without_the_options_the_guest_keeps_its_locks_to_itself() {
    let (_daemon, fs) = Daemon::with_client(["--tag", "locks"]);
    let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    assert_eq!(fs.setlk(file, 1, write_lock()), Err(Errno::ENOSYS));
    assert_eq!(fs.flock(file, 1, libc::F_WRLCK as u32), Err(Errno::ENOSYS));
}
