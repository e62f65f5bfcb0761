//! The supervisor moves a regular file's data between guest memory and the file, without the
//! worker. With `--no-donate`, the worker moves it.

use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::abi::ROOT;

/// Bytes moved each way: far more than any messages about them.
const TOTAL: u64 = 64 << 20;

struct Moved {
    supervisor: u64,
    worker: u64,
}

/// Bytes that each process passed through system calls that read and write files, while `run` ran.
fn moved(daemon: &Daemon, run: impl FnOnce()) -> Moved {
    let worker = daemon.worker().expect("a worker");
    let count = || {
        let sum = |process: &airlockfs_tests::procfs::Process| {
            process.io("rchar").expect("rchar") + process.io("wchar").expect("wchar")
        };
        (sum(daemon.supervisor()), sum(&worker))
    };
    let before = count();
    run();
    let after = count();
    Moved {
        supervisor: after.0 - before.0,
        worker: after.1 - before.1,
    }
}

/// Writes and reads a file of [`TOTAL`] bytes through one handle.
fn transfer(daemon: &Daemon) -> Moved {
    let fs = daemon.client();
    let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    let chunk = vec![0x5a; 1 << 20];
    // The first bytes decide how the others go.
    fs.write(file, 0, &chunk).expect("WRITE");
    fs.read(file, 0, 1 << 20).expect("READ");
    moved(daemon, || {
        for at in (0..TOTAL).step_by(1 << 20) {
            assert_eq!(fs.write(file, at, &chunk), Ok(1 << 20));
        }
        for at in (0..TOTAL).step_by(1 << 20) {
            assert_eq!(fs.read(file, at, 1 << 20).expect("READ").len(), 1 << 20);
        }
    })
}

#[test]
fn file_data_passes_by_the_worker() {
    let daemon = Daemon::start(["--tag", "data"]);
    let Moved { supervisor, worker } = transfer(&daemon);
    assert!(supervisor >= 2 * TOTAL, "the supervisor moved {supervisor} bytes");
    assert!(worker < TOTAL / 64, "the worker moved {worker} bytes");
}

#[test]
fn without_donation_the_worker_moves_it() {
    let daemon = Daemon::start(["--no-donate"]);
    let Moved { supervisor, worker } = transfer(&daemon);
    assert!(worker >= 2 * TOTAL, "the worker moved {worker} bytes");
    assert!(supervisor < TOTAL / 64, "the supervisor moved {supervisor} bytes");
}

#[test]
fn a_donated_file_is_searched_synced_and_extended() {
    let (daemon, fs) = Daemon::with_client(["--tag", "data"]);
    let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    // The first bytes bring the file over.
    fs.write(file, 0, &[1; 4096]).expect("WRITE");
    fs.read(file, 0, 4096).expect("READ");
    fs.write(file, 1 << 20, &[1; 4096]).expect("WRITE");
    assert_eq!(fs.lseek(file, 0, libc::SEEK_HOLE), Ok(4096));
    assert_eq!(fs.lseek(file, 4096, libc::SEEK_DATA), Ok(1 << 20));
    fs.fsync(file, true).expect("FSYNC of data");
    fs.fsync(file, false).expect("FSYNC");
    fs.fallocate(file, 0, 0, 2 << 20).expect("FALLOCATE");
    assert_eq!(
        std::fs::metadata(daemon.host("file")).expect("stat").len(),
        2 << 20
    );
}

/// Files of the share among a process's descriptors.
fn held(daemon: &Daemon, process: &airlockfs_tests::procfs::Process) -> Vec<String> {
    let name = daemon
        .share()
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let listed = process.descriptors().expect("descriptors");
    let paths = listed
        .into_iter()
        .map(|(_, path)| path.to_string_lossy().into_owned());
    // As the process names it, which may be from its own root.
    paths
        .filter(|path| path.contains(&name) || path.starts_with("/fi"))
        .collect()
}

#[test]
fn the_supervisor_holds_what_is_open_and_nothing_else() {
    let (daemon, fs) = Daemon::with_client(["--tag", "data"]);
    let before = daemon.supervisor().descriptors().expect("descriptors").len();
    let mut files = Vec::new();
    for i in 0..10 {
        fs.mkdir(ROOT, format!("dir{i}"), 0o755).expect("MKDIR");
        let (_, file) = fs
            .create(ROOT, format!("file{i}"), libc::O_RDWR, 0o644)
            .expect("CREATE");
        fs.write(file, 0, &vec![1; 1 << 20]).expect("WRITE");
        fs.read(file, 0, 1 << 20).expect("READ");
        files.push(file);
    }
    let held = held(&daemon, daemon.supervisor());
    assert!(held.iter().all(|path| path.contains("file")), "{held:?}");
    for file in files {
        fs.release(file).expect("RELEASE");
    }
    assert_eq!(
        daemon.supervisor().descriptors().expect("descriptors").len(),
        before
    );
}
