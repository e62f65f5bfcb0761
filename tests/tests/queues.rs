//! Several request queues: each has its own thread if there are CPUs for them; otherwise they share
//! one. No queue disturbs another.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::{FileLock, GETATTR, LkIn, ROOT, SETLKW};
use airlockfs_tests::fuse::{Client, Lane, Opened, SessionConfig, SlotId, Wait};
use airlockfs_tests::skip::skip;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use zerocopy::IntoBytes;

const PATIENCE: Duration = Duration::from_secs(30);
const FOUR: &str = "--num-request-queues=4";

/// This thread and the processes that it starts run on so many CPUs from now on; false if there are not as many.
fn on_cpus(count: usize) -> bool {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("affinity");
    let mut some = CpuSet::new();
    let cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true));
    let set: Vec<_> = cpus.take(count).map(|cpu| some.set(cpu)).collect();
    sched_setaffinity(Pid::from_raw(0), &some).expect("affinity");
    set.len() == count
}

/// How many threads of a process have a name that begins so.
fn threads(pid: i32, name: &str) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|comm| comm.starts_with(name)).count()
}

#[test]
fn queues_share_a_thread_where_there_is_no_cpu_for_each() {
    for (cpus, request_threads) in [(1, 1), (2, 1), (4, 2), (8, 4), (16, 4)] {
        let tried = move || {
            let daemon = Daemon::start([FOUR]);
            let worker = daemon.worker().expect("a worker");
            let expected = 1 + request_threads;
            assert_eq!(
                threads(daemon.supervisor().pid(), "queue"),
                expected,
                "{cpus} CPUs"
            );
            assert_eq!(threads(worker.pid(), "lane"), expected, "{cpus} CPUs");
        };
        let enough = std::thread::spawn(move || {
            on_cpus(cpus) && {
                tried();
                true
            }
        });
        if !enough.join().expect("as many threads as there are CPUs for") {
            assert!(cpus > 1, "no CPU");
            let test = "queues_share_a_thread_where_there_is_no_cpu_for_each";
            skip(test, &format!("this host has fewer than {cpus} CPUs"));
            break;
        }
    }
}

/// A VMM asks for one request queue or for some (QEMU's num-request-queues), and the daemon does not know beforehand.
#[test]
fn as_many_queues_as_vmms_ask_for_are_there_on_one_cpu_and_cost_no_threads() {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("affinity");
    assert!(on_cpus(1));
    let daemon = Daemon::start(["--on-disconnect=listen", "--tag=queues"]);
    sched_setaffinity(Pid::from_raw(0), &allowed).expect("affinity");
    for count in [8, 4, 1] {
        let mut config = SessionConfig::default();
        config.vmm.request_queues = Some(count);
        let fs = daemon.connect_with(&config);
        fs.init().expect("INIT");
        assert_eq!(fs.session().vmm().request_queues(), count);
        for queue in 1..=count {
            assert!(fs.on_queue(queue).getattr(ROOT).is_ok(), "{queue} of {count}");
        }
    }
    // The high-priority queue's and one for all others.
    assert_eq!(threads(daemon.supervisor().pid(), "queue"), 2);
    assert_eq!(threads(daemon.worker().expect("a worker").pid(), "lane"), 2);
}

/// A daemon with four request queues at one thread, and a front end, which runs where it may.
fn four(options: &[&str]) -> (Daemon, Client) {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("affinity");
    assert!(on_cpus(1));
    let daemon = Daemon::start(options.iter().copied().chain([FOUR, "--tag=queues"]));
    sched_setaffinity(Pid::from_raw(0), &allowed).expect("affinity");
    let fs = daemon.client();
    assert_eq!(fs.session().vmm().request_queues(), 4);
    (daemon, fs)
}

/// Has all queues work on one file and on names in one directory.
fn work_on_all(daemon: &Daemon, fs: &Client) {
    let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    let queues = fs.session().vmm().request_queues() as u64;
    std::thread::scope(|scope| {
        for queue in 1..=queues {
            let fs = fs.on_queue(queue as usize);
            scope.spawn(move || {
                for i in 0..200u64 {
                    let at = (queue << 20) + i * 8;
                    fs.write(file, at, &(at ^ i).to_le_bytes()).expect("WRITE");
                    assert_eq!(fs.read(file, at, 8).expect("READ"), (at ^ i).to_le_bytes());
                    let name = format!("{queue}-{i}");
                    let (entry, other) = fs.create(ROOT, &name, libc::O_RDWR, 0o600).expect("CREATE");
                    assert_eq!(fs.lookup(ROOT, &name).expect("LOOKUP").nodeid, entry.nodeid);
                    fs.release(other).expect("RELEASE");
                    fs.unlink(ROOT, &name).expect("UNLINK");
                    fs.forget(entry.nodeid, 2);
                }
            });
        }
    });
    let written = std::fs::metadata(daemon.host("file")).expect("stat").len();
    assert_eq!(written, (queues << 20) + 1600);
}

#[test]
fn every_request_queue_serves() {
    let (daemon, fs) = Daemon::with_client(["--tag=queues", "--num-request-queues=3"]);
    assert_eq!(fs.session().vmm().request_queues(), 3);
    assert_eq!(fs.session().vmm().config().expect("config").num_request_queues, 3);
    work_on_all(&daemon, &fs);
}

#[test]
fn queues_at_one_thread_are_served_side_by_side() {
    let (daemon, fs) = four(&[]);
    work_on_all(&daemon, &fs);
}

/// Sends SETLKW for a lock that another has, and leaves it waiting.
fn wait_for_lock(fs: &Client, lane: &mut Lane, file: Opened) -> SlotId {
    let lk = FileLock {
        start: 0,
        end: i64::MAX as u64,
        kind: libc::F_WRLCK as u32,
        pid: 1,
    };
    let body = LkIn {
        fh: file.fh,
        owner: 5,
        lk,
        ..LkIn::default()
    };
    let slot = lane.acquire().expect("a slot");
    let length = lane.write(slot, fs.header(SETLKW, file.node), &[body.as_bytes()]);
    lane.submit(slot, length, 16);
    lane.flush();
    slot
}

#[test]
fn a_queue_is_stopped_and_started_again_while_the_others_at_its_thread_go_on() {
    let (daemon, fs) = four(&["--posix-lock"]);
    let other = Launch::airlockfs()
        .args(["--posix-lock"])
        .share(daemon.share())
        .start();
    let holder = other.client();
    let lock = |kind: i32| FileLock {
        start: 0,
        end: i64::MAX as u64,
        kind: kind as u32,
        pid: 1,
    };
    let (_, held) = holder
        .create(ROOT, "locked", libc::O_RDWR, 0o644)
        .expect("CREATE");
    holder.setlk(held, 1, lock(libc::F_WRLCK)).expect("SETLK");
    let (_, file) = fs.create(ROOT, "locked", libc::O_RDWR, 0o644).expect("CREATE");
    let session = fs.session().clone();
    let waiting = wait_for_lock(&fs, &mut session.lane(3), file);
    let (over, count) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let mut lane = Lane::new(session.vmm(), 2, 24, 4096, 4096).expect("a lane");
            while !over.load(Relaxed) {
                while let Some(slot) = lane.acquire() {
                    let length = lane.write(slot, fs.header(GETATTR, ROOT), &[&[0; 16]]);
                    lane.submit(slot, length, 200);
                }
                lane.flush();
                // As soon as some are answered others follow: its thread never runs out of them.
                let Wait::Done(done) = lane.wait(PATIENCE) else {
                    panic!("no answer");
                };
                assert_eq!(lane.reply_header(done.slot).error, 0);
                lane.release(done.slot);
                count.fetch_add(1, Relaxed);
            }
        });
        let first = fs.on_queue(1);
        for _ in 0..50 {
            first.getattr(ROOT).expect("GETATTR");
            let before = count.load(Relaxed);
            let base = session.vmm().stop_queue(1).expect("GET_VRING_BASE");
            assert_eq!(
                base,
                session.vmm().queue(1).ring().avail_index(session.vmm().memory())
            );
            while count.load(Relaxed) == before {
                assert!(!busy.is_finished());
                std::thread::yield_now();
            }
            session.vmm().start_queue(1, base).expect("start");
        }
        first.getattr(ROOT).expect("GETATTR");
        over.store(true, Relaxed);
    });
    // It was not the stopped queue's, and waits still.
    holder.setlk(held, 1, lock(libc::F_UNLCK)).expect("unlock");
    let mut lane = session.lane(3);
    assert!(matches!(lane.wait_for(waiting, PATIENCE), Wait::Done(_)));
    assert_eq!(lane.reply_header(waiting).error, 0);
    assert_eq!(holder.setlk(held, 1, lock(libc::F_WRLCK)), Err(Errno::EAGAIN));
}

#[test]
fn a_queue_that_makes_no_sense_is_in_no_others_way() {
    let (daemon, fs) = four(&[]);
    let vmm = fs.session().vmm();
    {
        let queue = vmm.queue(1);
        let ring = queue.ring();
        let far = ring.avail_index(vmm.memory()).wrapping_add(20_000);
        ring.set_avail_index(vmm.memory(), far);
        queue.kick();
    }
    for queue in 2..=4 {
        let fs = fs.on_queue(queue);
        for _ in 0..100 {
            fs.getattr(ROOT).expect("GETATTR");
        }
    }
    assert!(
        daemon.wait_for_log("queue 1 cannot be used"),
        "{:?}",
        daemon.log()
    );
}
