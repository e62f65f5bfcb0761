//! What the guest has its answer to before the worker did it.

use super::*;

impl Rig {
    fn release(&mut self, unique: u64, handle: Handle, flags: u32) {
        let mut body = handle.0.to_ne_bytes().to_vec();
        body.extend([0; 4]);
        body.extend(flags.to_ne_bytes());
        body.extend([0; 8]);
        self.send(RELEASE, unique, &body, 0);
    }

    /// Whether the worker rang since this was last asked.
    fn was_woken(&self) -> bool {
        nix::unistd::read(self.group.doorbell(), &mut [0; 8]).is_ok()
    }
}

fn release(request: &Request<'_>) -> Reply<'static> {
    match request {
        Request::Release { .. } | Request::ReleaseDir { .. } => Reply::Done,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_release_is_answered_before_the_worker_knows_of_it_and_wakes_nobody() {
    let mut rig = Rig::with_file(true);
    rig.was_woken();
    rig.release(10, HANDLE, 0);
    assert_eq!((rig.run_one().error, rig.group.queues[0].taken()), (0, 0));
    assert_eq!(rig.serve(release), 1);
    assert!(!rig.was_woken(), "nobody waits for that");
    rig.send(LOOKUP, 11, b"name\0", 128);
    rig.run();
    assert_eq!(rig.serve(|_| Reply::Error(Errno::ENOENT)), 1);
    assert!(rig.was_woken());
    assert_eq!(rig.run_one().error, libc::ENOENT);
    assert_eq!(rig.group.lane.pending.len(), 0, "both were collected");
}

#[test]
fn the_release_of_a_directory_is_answered_at_once_too() {
    const OPENDIR: u32 = 27;
    const RELEASEDIR: u32 = 29;
    let mut rig = Rig::running(true);
    rig.send(OPENDIR, 2, &[0; 8], 16);
    rig.run();
    rig.serve(|_| Reply::Opened { handle: HANDLE });
    assert_eq!(rig.run_one().error, 0);
    let mut body = HANDLE.0.to_ne_bytes().to_vec();
    body.extend([0; 16]);
    rig.send(RELEASEDIR, 3, &body, 0);
    assert_eq!(rig.run_one().error, 0);
    assert_eq!(rig.serve(release), 1);
}

#[test]
fn a_release_that_may_fail_or_ends_a_lock_waits_for_the_worker() {
    const FLOCK_UNLOCK: u32 = 2;
    let mut rig = Rig::with_file(true);
    for (handle, flags) in [(Handle(77), 0), (HANDLE, FLOCK_UNLOCK)] {
        rig.release(10, handle, flags);
        assert_eq!(rig.run_all(), []);
        assert_eq!(rig.serve(|_| Reply::Error(Errno::EBADF)), 1);
        assert_eq!(rig.run_one().error, libc::EBADF);
    }
    let locks = Options {
        posix_lock: true,
        ..OPTIONS
    };
    let mut rig = Rig::with_file_and(true, locks);
    rig.release(10, HANDLE, 0);
    assert_eq!(rig.run_all(), []);
    assert_eq!(rig.serve(release), 1);
    assert_eq!(rig.run_one().error, 0);
}

#[test]
fn a_lane_full_of_what_nobody_waits_for_wakes_the_queue_when_it_has_room() {
    let mut rig = Rig::running(true);
    rig.was_woken();
    for unique in 0..SLOTS as u64 {
        rig.send(FORGET, unique, &7u64.to_ne_bytes(), 0);
        assert_eq!(rig.run_all(), [None]);
    }
    rig.send(FORGET, 1000, &7u64.to_ne_bytes(), 0);
    assert_eq!(rig.run_all(), [], "no slot");
    assert_eq!(rig.serve(|_| Reply::Done), SLOTS);
    assert!(rig.was_woken());
    assert_eq!(rig.run_all(), [None]);
    assert_eq!(rig.serve(|_| Reply::Done), 1);
    assert!(!rig.was_woken());
}
