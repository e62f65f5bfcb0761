//! File data: on donated descriptors, and through the ring.

use super::*;

#[test]
fn a_second_read_is_served_from_the_donated_file_without_the_worker() {
    let mut rig = Rig::with_file(true);
    rig.read(10, 0, 4096);
    rig.run();
    assert_eq!(
        rig.serve(|request| {
            assert_eq!(
                *request,
                Request::File(FileOperation::Read {
                    handle: HANDLE,
                    offset: 0,
                    size: 4096
                })
            );
            Reply::Data { size: 3 }
        }),
        1
    );
    assert_eq!(rig.run_one().body.len(), 3);
    rig.read(11, 2, 4096);
    assert_eq!(rig.run_all(), []);
    rig.donate(&file(b"content"));
    assert_eq!(
        rig.run_one(),
        Answer {
            unique: 11,
            error: 0,
            body: b"ntent".to_vec()
        }
    );
    rig.read(12, 0, 4);
    assert_eq!(rig.run_one().body, b"cont");
    rig.read(13, 100, 4);
    assert_eq!(
        rig.run_one(),
        Answer {
            unique: 13,
            error: 0,
            body: vec![]
        }
    );
    assert_eq!(rig.serve(|_| Reply::Done), 0);
}

#[test]
fn a_large_write_asks_for_the_descriptor_and_what_waits_completes_later() {
    let mut rig = Rig::with_file(true);
    let data = vec![7; 100_000];
    rig.write(10, 5, &data);
    rig.run();
    let donated = file(b"");
    rig.donate(&donated);
    assert_eq!(
        rig.run_one(),
        Answer {
            unique: 10,
            error: 0,
            body: [100_000u64.to_ne_bytes()].concat()
        }
    );
    let mut back = vec![0; 100_005];
    donated.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(back[5..], data);
    let mut body = HANDLE.0.to_ne_bytes().to_vec();
    body.extend([0; 8]);
    rig.send(FSYNC, 11, &body, 0);
    rig.run();
    let mut answers = rig.run_all();
    while answers.is_empty() {
        rig.sleep();
        answers = rig.run_all();
    }
    assert_eq!(
        answers,
        [Some(Answer {
            unique: 11,
            error: 0,
            body: vec![]
        })]
    );
}

#[test]
fn what_the_worker_keeps_goes_through_the_ring() {
    let mut rig = Rig::with_file(true);
    rig.write(10, 0, &vec![7; 40_000]);
    rig.run();
    assert_eq!(rig.serve(|_| Reply::NotDonated), 1);
    rig.run();
    let (ticket, request) = rig.worker.take(&mut rig.message).unwrap().unwrap();
    assert_eq!(
        request,
        Request::File(FileOperation::Write {
            handle: HANDLE,
            offset: 0,
            size: 40_000,
            kill_suidgid: false
        })
    );
    let mut data = vec![0; 40_000];
    rig.worker.bulk(&ticket).unwrap().copy_to_slice(0, &mut data);
    assert!(data.iter().all(|&byte| byte == 7));
    rig.worker.answer(ticket, &Reply::Written { size: 39_999 });
    assert_eq!(rig.run_one().body, 39_999u64.to_ne_bytes());
}

#[test]
fn a_read_larger_than_a_buffer_goes_through_the_ring_in_pieces() {
    let mut rig = Rig::with_file(false);
    rig.read(10, 100, (1 << 20) + 10);
    rig.run();
    let mut expected = vec![(100, 1 << 20), (100 + (1 << 20), 10)].into_iter();
    for _ in 0..2 {
        let (offset, size) = expected.next().unwrap();
        let (ticket, request) = rig.worker.take(&mut rig.message).unwrap().unwrap();
        assert_eq!(
            request,
            Request::File(FileOperation::Read {
                handle: HANDLE,
                offset,
                size
            })
        );
        rig.worker
            .bulk(&ticket)
            .unwrap()
            .copy_from_slice(0, &vec![size as u8 + 1; size as usize]);
        rig.worker.answer(ticket, &Reply::Data { size });
        if size == 10 {
            break;
        }
        assert_eq!(rig.run_all(), []);
    }
    let body = rig.run_one().body;
    assert_eq!(body.len(), (1 << 20) + 10);
    assert_eq!(body[(1 << 20) - 1..][..3], [1, 11, 11]);
}

#[test]
fn a_donated_descriptor_of_another_kind_ends_the_session() {
    let mut rig = Rig::with_file(true);
    rig.read(10, 0, 1 << 20);
    rig.run();
    let device = File::options().read(true).write(true).open("/dev/null");
    rig.donate(&device.unwrap());
    assert_eq!(
        rig.run_one(),
        Answer {
            unique: 10,
            error: libc::EIO,
            body: vec![]
        }
    );
    let expected = ProtocolError("a donated descriptor that is no regular file's");
    assert_eq!(rig.failure(), Some(&FailureReason::Violation(expected)));
}

#[test]
fn a_write_that_must_keep_the_setuid_bit_is_the_workers() {
    let mut rig = Rig::with_file(true);
    rig.write(10, 0, &vec![7; 40_000]);
    rig.run();
    let donated = file(b"");
    rig.donate(&donated);
    assert_eq!(rig.run_one().error, 0);
    nix::sys::stat::fchmod(&donated, nix::sys::stat::Mode::from_bits_truncate(0o4755)).unwrap();
    // FATTR_MODE with the setuid bit.
    let mut body = vec![0; 88];
    body[0] = 1;
    body[68..72].copy_from_slice(&0o4755u32.to_ne_bytes());
    rig.send(SETATTR, 11, &body, 104);
    rig.run();
    rig.serve(|request| {
        assert!(matches!(request, Request::SetAttr { .. }));
        Reply::Attr(Attr {
            mode: libc::S_IFREG | 0o4755,
            ..Attr::default()
        })
    });
    assert_eq!(rig.run_one().error, 0);
    rig.write(12, 0, b"more");
    rig.run();
    assert_eq!(
        rig.serve(|request| {
            assert!(matches!(request, Request::File(FileOperation::Write { .. })));
            Reply::Written { size: 4 }
        }),
        1
    );
    assert_eq!(rig.run_one().error, 0);
}

#[test]
fn release_closes_the_donated_descriptor() {
    let mut rig = Rig::with_file(true);
    rig.read(10, 0, 1 << 20);
    rig.run();
    let file = File::from(memfd_create(c"closed-by-release", MFdFlags::empty()).unwrap());
    let descriptors = || {
        let all = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let is_it = |target: &std::path::PathBuf| target.to_string_lossy().contains("closed-by-release");
        targets.filter(is_it).count()
    };
    rig.donate(&file);
    assert_eq!(rig.run_one().error, 0);
    assert_eq!(descriptors(), 2);
    let mut body = HANDLE.0.to_ne_bytes().to_vec();
    body.extend([0; 16]);
    rig.send(RELEASE, 11, &body, 0);
    rig.run();
    assert_eq!(descriptors(), 1);
    assert_eq!(
        rig.serve(|request| {
            assert!(matches!(request, Request::Release { .. }));
            Reply::Done
        }),
        1
    );
    assert_eq!(rig.run_one().error, 0);
}

#[test]
fn a_write_to_a_file_open_for_reading_is_never_made_here() {
    let mut rig = Rig::running(true);
    rig.send(OPEN, 2, &[0; 8], 16);
    rig.run();
    rig.serve(|_| Reply::Opened { handle: HANDLE });
    assert_eq!(rig.run_one().error, 0);
    rig.write(10, 0, &vec![7; 40_000]);
    rig.run();
    rig.donate(&File::open(std::env::current_exe().unwrap()).unwrap());
    rig.run();
    let refuse = |request: &Request<'_>| {
        assert!(matches!(
            request,
            Request::File(FileOperation::Write { .. } | FileOperation::Fallocate { .. })
        ));
        Reply::Error(Errno::EBADF)
    };
    assert_eq!(rig.serve(refuse), 1);
    assert_eq!(rig.run_one().error, libc::EBADF);
    let fallocate = [HANDLE.0, 0, 100, 0].map(u64::to_ne_bytes).concat();
    rig.send(43, 11, &fallocate, 0);
    rig.run();
    assert_eq!(rig.serve(refuse), 1);
    assert_eq!(rig.run_one().error, libc::EBADF);
}
