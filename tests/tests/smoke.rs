//! One walk through the most common operations: it shows that the harness and the daemon work
//! together.

use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::SessionConfig;
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::vmm::VmmConfig;

#[test]
fn a_guest_makes_writes_reads_and_removes_a_file() {
    let daemon = Daemon::start(["--tag", "smoke"]);
    let fs = daemon.connect();
    let space = fs.session().vmm().config().expect("a config space");
    assert_eq!(space.tag, b"smoke");
    assert!(space.num_request_queues >= 1);
    let init = fs.init().expect("INIT");
    assert_eq!(init.major, 7);

    let dir = fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR");
    let (entry, file) = fs
        .create(dir.nodeid, "file", libc::O_RDWR, 0o644)
        .expect("CREATE");
    let data: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    assert_eq!(fs.write(file, 0, &data), Ok(data.len() as u32));
    assert_eq!(fs.read(file, 0, 300_000).expect("READ"), data);
    assert_eq!(fs.getattr(entry.nodeid).expect("GETATTR").size, data.len() as u64);
    fs.release(file).expect("RELEASE");
    assert_eq!(std::fs::read(daemon.host("dir/file")).expect("on the host"), data);

    let handle = fs.opendir(dir.nodeid).expect("OPENDIR");
    let names: Vec<_> = fs.readdir_all(handle, 4096).expect("READDIR");
    assert!(names.iter().any(|e| e.name == b"file"));
    fs.releasedir(handle).expect("RELEASEDIR");
    fs.unlink(dir.nodeid, "file").expect("UNLINK");
    fs.rmdir(ROOT, "dir").expect("RMDIR");
    fs.batch_forget(&[(entry.nodeid, 1), (dir.nodeid, 1)]);
    assert!(!daemon.host("dir").exists());
}

#[test]
fn every_mix_of_ring_features_and_sizes_works() {
    for (event_idx, indirect) in [(true, true), (true, false), (false, true), (false, false)] {
        for queue_size in [16, 128, 1024] {
            let daemon = Daemon::start(["--tag", "rings"]);
            let fs = daemon.connect_with(&SessionConfig {
                vmm: VmmConfig {
                    queue_size,
                    event_idx,
                    indirect,
                    ..SessionConfig::default().vmm
                },
                ..SessionConfig::default()
            });
            fs.init().expect("INIT");
            let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
            // More rounds than the ring has entries, so that its indexes wrap.
            for round in 0..300u64 {
                assert_eq!(fs.write(file, round * 8, &round.to_le_bytes()), Ok(8));
                assert_eq!(fs.read(file, round * 8, 8).expect("READ"), round.to_le_bytes());
            }
            fs.forget(file.node, 1);
        }
    }
}

/// As for a guest whose kernel did not come up: its VMM goes, and the daemon with it.
#[test]
fn another_vmm_finds_another_daemon_on_the_same_share() {
    let mut daemon = Daemon::start(["--tag", "again"]);
    let fs = daemon.client();
    fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR");
    drop(fs);
    assert!(daemon.wait().success());
    daemon.restart().expect("another daemon");
    daemon.client().lookup(ROOT, "dir").expect("LOOKUP");
}
