//! Locks: of owners in a guest, between guests, and against the host.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd},
};

use airlockfs_ipc::{
    Errno, Handle,
    message::{FileLock, FileOperation, Reply, Request},
};
use nix::fcntl::{FcntlArg, fcntl};

use crate::client::{Scratch, Worker, config, share};

const WRITE: u32 = libc::F_WRLCK as u32;
const READ: u32 = libc::F_RDLCK as u32;
const NONE: u32 = libc::F_UNLCK as u32;
const END: u64 = i64::MAX as u64;

fn lock(start: u64, end: u64, kind: u32) -> FileLock {
    FileLock {
        start,
        end,
        kind,
        pid: 42,
    }
}

fn set(handle: Handle, owner: u64, lock: FileLock, wait: bool) -> Request<'static> {
    Request::SetLock {
        handle,
        owner,
        lock,
        flock: false,
        wait: wait.then_some(owner),
    }
}

fn flock(handle: Handle, owner: u64, kind: u32, wait: bool) -> Request<'static> {
    Request::SetLock {
        handle,
        owner,
        lock: lock(0, END, kind),
        flock: true,
        wait: wait.then_some(owner),
    }
}

fn held(worker: &mut Worker, handle: Handle, owner: u64, wanted: FileLock) -> FileLock {
    let request = Request::GetLock {
        handle,
        owner,
        lock: wanted,
    };
    match worker.call(&request) {
        Ok(Reply::Lock(lock)) => lock,
        other => panic!("{other:?}"),
    }
}

#[test]
fn owners_exclude_each_other_on_one_handle() {
    let mut worker = Worker::start(|_| ());
    let (entry, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    let done = Ok(Reply::Done);
    assert_eq!(worker.call(&set(handle, 1, lock(10, 19, WRITE), false)), done);
    assert_eq!(
        worker.call(&set(handle, 1, lock(10, 19, WRITE), false)),
        done,
        "its own"
    );
    assert_eq!(
        worker.call(&set(handle, 2, lock(19, 30, READ), false)),
        Err(Errno::EAGAIN)
    );
    assert_eq!(worker.call(&set(handle, 2, lock(20, 30, READ), false)), done);
    let found = held(&mut worker, handle, 2, lock(0, END, WRITE));
    assert_eq!((found.start, found.end, found.kind), (10, 19, WRITE));
    let found = held(&mut worker, handle, 3, lock(25, END, WRITE));
    assert_eq!((found.start, found.end, found.kind), (20, 30, READ));
    assert_eq!(held(&mut worker, handle, 3, lock(25, 26, READ)).kind, NONE);
    // Through another handle the owner is the same, and close(2) of any gives up all.
    let reading = worker.open(entry.node, libc::O_RDONLY).unwrap();
    assert_eq!(worker.call(&set(reading, 1, lock(12, 13, NONE), false)), done);
    assert_eq!(worker.call(&set(handle, 2, lock(12, 13, WRITE), false)), done);
    let flush = Request::Flush {
        handle: reading,
        lock_owner: 1,
    };
    assert_eq!(worker.call(&flush), done);
    assert_eq!(worker.call(&set(handle, 2, lock(0, 19, WRITE), false)), done);
    for wrong in [lock(5, 4, WRITE), lock(u64::MAX, u64::MAX, READ), lock(0, 1, 77)] {
        assert_eq!(worker.call(&set(handle, 2, wrong, false)), Err(Errno::EINVAL));
    }
}

#[test]
fn a_lock_of_the_open_file_goes_with_it() {
    let mut worker = Worker::start(|_| ());
    let (entry, one) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    let two = worker.open(entry.node, libc::O_RDWR).unwrap();
    let done = Ok(Reply::Done);
    // An OFD lock: no FLUSH ever names its owner.
    assert_eq!(worker.call(&set(one, 1, lock(0, 9, WRITE), false)), done);
    assert_eq!(worker.call(&set(two, 2, lock(10, 19, WRITE), false)), done);
    let waiting = worker.send(&set(two, 2, lock(0, 9, WRITE), true));
    let flush = Request::Flush {
        handle: one,
        lock_owner: 3,
    };
    assert_eq!(worker.call(&flush), done);
    assert!(!worker.has_answer(20));
    let release = Request::Release {
        handle: one,
        flock_owner: None,
    };
    let release = worker.send(&release);
    let answers = [worker.answer(), worker.answer()];
    assert!(answers.contains(&(waiting, done)) && answers.contains(&(release, done)));
    let third = worker.open(entry.node, libc::O_RDWR).unwrap();
    let wanted = set(third, 3, lock(10, 19, READ), false);
    assert_eq!(worker.call(&wanted), Err(Errno::EAGAIN), "the other's stays");
}

#[test]
fn a_waiting_lock_holds_up_nothing_and_comes_when_it_can() {
    let mut worker = Worker::start(|config| config.spare_threads = 1);
    let (entry, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    assert_eq!(
        worker.call(&set(handle, 1, lock(0, END, WRITE), false)),
        Ok(Reply::Done)
    );
    // More than there are threads.
    let waiting: Vec<_> = (2..22)
        .map(|owner| worker.send(&set(handle, owner, lock(0, 9, READ), true)))
        .collect();
    let sync = Request::File(FileOperation::Fsync {
        handle,
        datasync: true,
    });
    let slot = worker.send(&sync);
    assert_eq!(worker.answer(), (slot, Ok(Reply::Done)));
    assert!(worker.getattr(entry.node).is_ok());
    assert!(!worker.has_answer(50));
    let slot = worker.send(&set(handle, 1, lock(0, END, NONE), false));
    let mut answers: Vec<_> = (0..=waiting.len()).map(|_| worker.answer()).collect();
    assert!(answers.iter().all(|(_, reply)| *reply == Ok(Reply::Done)));
    answers.retain(|(answered, _)| *answered != slot);
    assert!(
        waiting
            .iter()
            .all(|slot| answers.iter().any(|(answered, _)| answered == slot))
    );
}

#[test]
fn a_wait_ends_when_its_owner_goes() {
    let mut worker = Worker::start(|_| ());
    let (_, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    let interrupted = Err(Errno::raw(libc::EINTR));
    worker.call(&set(handle, 1, lock(0, 9, WRITE), false)).unwrap();
    let waiting = worker.send(&set(handle, 2, lock(0, 9, WRITE), true));
    let flush = worker.send(&Request::Flush {
        handle,
        lock_owner: 2,
    });
    let answers = [worker.answer(), worker.answer()];
    assert!(answers.contains(&(waiting, interrupted)) && answers.contains(&(flush, Ok(Reply::Done))));
    let waiting = worker.send(&set(handle, 3, lock(0, 9, WRITE), true));
    let reset = worker.send(&Request::Reset);
    let answers = [worker.answer(), worker.answer()];
    assert!(answers.contains(&(waiting, interrupted)) && answers.contains(&(reset, Ok(Reply::Done))));
    // And all locks are gone.
    let host = File::options().write(true).open(worker.path("f")).unwrap();
    fcntl(&host, FcntlArg::F_OFD_SETLK(&whole())).unwrap();
}

#[test]
fn a_wait_is_interrupted_by_its_name_even_before_it_begins() {
    let mut worker = Worker::start(|_| ());
    let (_, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    let interrupted = Err(Errno::raw(libc::EINTR));
    let done = Ok(Reply::Done);
    worker.call(&set(handle, 1, lock(0, 9, WRITE), false)).unwrap();
    let waiting = worker.send(&set(handle, 2, lock(0, 9, WRITE), true));
    let other = worker.send(&set(handle, 3, lock(0, 9, READ), true));
    let interrupt = worker.send(&Request::Interrupt { wait: 2 });
    let answers = [worker.answer(), worker.answer()];
    assert!(answers.contains(&(waiting, interrupted)) && answers.contains(&(interrupt, done)));
    // By another lane it may overtake what it is about. What does not wait is none of its business.
    assert_eq!(worker.call(&Request::Interrupt { wait: 4 }), done);
    assert_eq!(worker.call(&set(handle, 4, lock(20, 29, WRITE), true)), done);
    assert_eq!(worker.call(&Request::Interrupt { wait: 5 }), done);
    assert_eq!(worker.call(&set(handle, 5, lock(0, 9, WRITE), true)), interrupted);
    // Once.
    let again = worker.send(&set(handle, 5, lock(0, 9, WRITE), true));
    assert!(!worker.has_answer(20));
    let unlock = worker.send(&set(handle, 1, lock(0, END, NONE), false));
    let answers = [worker.answer(), worker.answer()];
    assert!(answers.contains(&(unlock, done)));
    assert!(answers.contains(&(other, done)) || answers.contains(&(again, done)));
}

#[test]
fn a_wait_for_oneself_is_refused() {
    let mut worker = Worker::start(|_| ());
    let deadlock = Err(Errno::raw(libc::EDEADLK));
    let done = Ok(Reply::Done);
    let (_, one) = worker.create("one", libc::O_RDWR, 0o600).unwrap();
    let (_, two) = worker.create("two", libc::O_RDWR, 0o600).unwrap();
    // Three owners, each with a lock that the next one wants.
    worker.call(&set(one, 1, lock(0, 9, WRITE), false)).unwrap();
    worker.call(&set(two, 2, lock(0, 9, READ), false)).unwrap();
    worker.call(&set(one, 3, lock(20, 29, READ), false)).unwrap();
    let first = worker.send(&set(two, 1, lock(5, 5, WRITE), true));
    let second = worker.send(&set(one, 2, lock(25, END, WRITE), true));
    assert!(!worker.has_answer(20));
    assert_eq!(worker.call(&set(one, 3, lock(0, 0, READ), true)), deadlock);
    assert_eq!(
        worker.call(&set(one, 3, lock(0, 0, READ), false)),
        Err(Errno::EAGAIN)
    );
    // What they share is in nobody's way.
    assert_eq!(worker.call(&set(two, 3, lock(0, 9, READ), true)), done);
    // It is the locks that count, not the owners: with them gone all get theirs.
    let unlock = worker.send(&set(one, 3, lock(0, END, NONE), false));
    let answers = [worker.answer(), worker.answer()];
    assert!(answers.contains(&(unlock, done)) && answers.contains(&(second, done)));
    assert_eq!(worker.call(&set(two, 3, lock(0, END, NONE), false)), done);
    let unlock = worker.send(&set(two, 2, lock(0, END, NONE), false));
    let answers = [worker.answer(), worker.answer()];
    assert!(answers.contains(&(unlock, done)) && answers.contains(&(first, done)));
}

#[test]
fn more_waits_than_there_is_room_for_are_refused_and_the_rest_goes_on() {
    let mut worker = Worker::start(|_| ());
    let (_, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    let done = Ok(Reply::Done);
    worker.call(&set(handle, 1, lock(0, 9, WRITE), false)).unwrap();
    let waiting: Vec<_> = (2..66)
        .map(|owner| worker.send(&set(handle, owner, lock(0, 9, READ), true)))
        .collect();
    let refused = worker.call(&set(handle, 99, lock(0, 9, READ), true));
    assert_eq!(refused, Err(Errno::raw(libc::ENOLCK)));
    let unlock = worker.send(&set(handle, 1, lock(0, END, NONE), false));
    for _ in 0..=waiting.len() {
        let (slot, reply) = worker.answer();
        assert_eq!(reply, done);
        assert!(slot == unlock || waiting.contains(&slot));
    }
}

#[test]
fn ranges_are_limited_and_may_always_be_given_up() {
    let mut worker = Worker::start(|_| ());
    let (_, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    let done = Ok(Reply::Done);
    let mut number = 0;
    let mut next = |worker: &mut Worker| {
        number += 2;
        worker.send(&set(handle, 1, lock(number, number, WRITE), false));
    };
    // Many at a time: only the answers are waited for.
    for _ in 0..16_384 / 64 {
        (0..64).for_each(|_| next(&mut worker));
        (0..64).for_each(|_| assert_eq!(worker.answer().1, done));
    }
    next(&mut worker);
    assert_eq!(worker.answer().1, Err(Errno::raw(libc::ENOLCK)));
    assert_eq!(worker.call(&set(handle, 1, lock(0, END, NONE), false)), done);
    assert_eq!(worker.call(&set(handle, 2, lock(0, END, WRITE), false)), done);
}

#[test]
fn the_holder_is_named_where_it_is_a_process_of_the_guest() {
    let mut worker = Worker::start(|_| ());
    let (_, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    let by = |pid| FileLock {
        pid,
        ..lock(0, 9, WRITE)
    };
    let get = |owner| Request::GetLock {
        handle,
        owner,
        lock: by(77),
    };
    worker.call(&set(handle, 1, by(1234), false)).unwrap();
    assert_eq!(worker.call(&get(2)), Ok(Reply::Lock(by(1234))));
    worker.call(&set(handle, 1, lock(0, END, NONE), false)).unwrap();
    let host = File::options().write(true).open(worker.path("f")).unwrap();
    fcntl(&host, FcntlArg::F_OFD_SETLK(&whole())).unwrap();
    let Ok(Reply::Lock(found)) = worker.call(&get(2)) else {
        panic!("the host has a lock");
    };
    assert_eq!((found.kind, found.pid), (WRITE, u32::MAX));
    // A process of the host that the worker can see (--sandbox none) has a number too, which is another's in the guest.
    drop(host);
    let host = File::options().write(true).open(worker.path("f")).unwrap();
    fcntl(&host, FcntlArg::F_SETLK(&whole())).unwrap();
    let Ok(Reply::Lock(found)) = worker.call(&get(2)) else {
        panic!("the host has a lock");
    };
    assert_eq!((found.kind, found.pid), (WRITE, u32::MAX));
}

fn whole() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[test]
fn two_guests_and_the_host_exclude_each_other() {
    let scratch = Scratch::new();
    let other = config(vec![share(&scratch.path(""), None, false)]);
    let mut first = Worker::on(scratch, |_| ());
    let mut second = Worker::with(Scratch::new(), other).unwrap();
    let (_, one) = first.create("f", libc::O_RDWR, 0o600).unwrap();
    let node = second.node("f");
    let two = second.open(node, libc::O_RDWR).unwrap();
    let done = Ok(Reply::Done);
    assert_eq!(first.call(&set(one, 1, lock(0, 9, WRITE), false)), done);
    assert_eq!(
        second.call(&set(two, 1, lock(5, 6, READ), false)),
        Err(Errno::EAGAIN)
    );
    second.send(&set(two, 1, lock(5, 6, READ), true));
    assert!(!second.has_answer(20));
    assert_eq!(first.call(&set(one, 1, lock(0, 9, NONE), false)), done);
    assert_eq!(second.answer().1, done);
    let host = File::options().write(true).open(first.path("f")).unwrap();
    assert!(fcntl(&host, FcntlArg::F_OFD_SETLK(&whole())).is_err());

    assert_eq!(first.call(&flock(one, 1, WRITE, false)), done);
    assert_eq!(second.call(&flock(two, 1, READ, false)), Err(Errno::EAGAIN));
    second.send(&flock(two, 1, READ, true));
    assert!(!second.has_answer(20));
    let release = Request::Release {
        handle: one,
        flock_owner: Some(1),
    };
    assert_eq!(first.call(&release), done);
    assert_eq!(second.answer().1, done);
}

#[test]
fn a_flock_belongs_to_the_open_file() {
    let mut worker = Worker::start(|_| ());
    let (entry, one) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    let two = worker.open(entry.node, libc::O_RDONLY).unwrap();
    let done = Ok(Reply::Done);
    assert_eq!(worker.call(&flock(one, 1, READ, false)), done);
    assert_eq!(worker.call(&flock(two, 2, READ, false)), done);
    assert_eq!(worker.call(&flock(two, 2, WRITE, false)), Err(Errno::EAGAIN));
    assert_eq!(worker.call(&flock(one, 1, NONE, false)), done);
    assert_eq!(worker.call(&flock(two, 2, WRITE, false)), done);
    // The supervisor's descriptor is the same open file, and does not keep the lock.
    let donate = worker.call(&Request::Donate { handle: two });
    assert_eq!(donate, Ok(Reply::Donated));
    let donated = worker.lane.receive_donation(two).unwrap().unwrap();
    let release = Request::Release {
        handle: two,
        flock_owner: Some(2),
    };
    assert_eq!(worker.call(&release), done);
    assert_eq!(worker.call(&flock(one, 1, WRITE, false)), done);
    assert!(donated.as_fd().as_raw_fd() > 0);
}

#[test]
fn without_the_options_locks_are_the_guests_own() {
    let mut worker = Worker::start(|config| {
        config.posix_lock = false;
        config.flock = false;
    });
    let (_, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    let nothing = Err(Errno::ENOSYS);
    assert_eq!(worker.call(&set(handle, 1, lock(0, 9, WRITE), true)), nothing);
    assert_eq!(worker.call(&flock(handle, 1, WRITE, false)), nothing);
    let get = Request::GetLock {
        handle,
        owner: 1,
        lock: lock(0, 9, WRITE),
    };
    assert_eq!(worker.call(&get), nothing);
    let flush = Request::Flush {
        handle,
        lock_owner: 1,
    };
    assert_eq!(worker.call(&flush), Ok(Reply::Done));
    let release = Request::Release {
        handle,
        flock_owner: Some(1),
    };
    assert_eq!(worker.call(&release), Ok(Reply::Done));
}
