//! Counts what each operation costs, and compares it exactly with the table in docs/PERFORMANCE.md.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::fuse::{Client, Opened, SetAttr};
use airlockfs_tests::tempdir::TempDir;
use airlockfs_tests::trace::{Count, Tracer};

/// How often an operation is repeated: a system call that comes now and then shows as a fraction.
const TIMES: usize = 16;
/// Entries of two directories; what the larger one costs more is the price of an entry.
const FEW: usize = 40;
const MANY: usize = 120;
/// Room for all entries of either.
const WINDOW: u32 = 64 << 10;
/// Calls that wait or wake for one request, at most, in supervisor and worker. The supervisor wakes by a kick
/// (epoll_wait), wakes the worker (futex), sleeps (epoll_wait), interrupts the guest (write): 4; the worker sleeps (futex)
/// and rings the doorbell (write): 2. One more is a wait that ends before it began. Looking before sleeping saves some.
const WAITS: [u64; 2] = [5, 3];
/// The same for what a thread of the supervisor's pool does: it is handed over and back, under locks.
const WAITS_POOL: [u64; 2] = [11, 3];

/// A line of the table: the operation, system calls of supervisor and worker, allocations of both.
type Row = [String; 5];

struct Meter<'a> {
    tracer: &'a Tracer,
    rows: Vec<(&'static str, Vec<Count>, u64)>,
}

impl Meter<'_> {
    fn settled(&self) -> Vec<Count> {
        self.tracer.settled().expect("processes at rest")
    }

    /// Counts [`TIMES`] operations of one request.
    fn of<T>(&mut self, operation: &'static str, each: impl FnMut(usize) -> T) {
        self.limited(operation, WAITS, each);
    }

    fn limited<T>(&mut self, operation: &'static str, waits: [u64; 2], mut each: impl FnMut(usize) -> T) {
        let requests = TIMES as u64;
        let counts = self.count(|| {
            for i in 0..TIMES {
                each(i);
                // With one request at a time, no thread is started because another is still at the last one.
                self.settled();
            }
        });
        for ((count, most), process) in counts.iter().zip(waits).zip(["supervisor", "worker"]) {
            assert!(
                count.waits <= most * requests,
                "{operation}: {process}: {} calls that wait or wake for {requests} requests",
                count.waits
            );
        }
        self.put(operation, counts, requests);
    }

    fn count(&self, run: impl FnOnce()) -> Vec<Count> {
        let before = self.settled();
        run();
        let after = self.settled();
        after
            .iter()
            .zip(&before)
            .map(|(after, before)| after.since(before))
            .collect()
    }

    fn put(&mut self, operation: &'static str, counts: Vec<Count>, divisor: u64) {
        self.rows.retain(|(name, ..)| *name != operation);
        self.rows.push((operation, counts, divisor));
    }

    /// Lists two directories; the difference is the price of an entry, the rest that of the listing.
    fn listing(&mut self, [each, rest]: [&'static str; 2], mut list: impl FnMut(usize) -> usize) {
        let mut count = |size: usize| self.count(|| assert!(list(size) >= size));
        let (few, many) = (count(FEW), count(MANY));
        let entries: Vec<Count> = many.iter().zip(&few).map(|(many, few)| many.since(few)).collect();
        let fixed = few.iter().zip(&entries).map(|(few, entries)| {
            let mut part = entries.clone();
            for count in part.calls.values_mut() {
                *count = *count * FEW as u64 / (MANY - FEW) as u64;
            }
            part.allocations = part.allocations * FEW as u64 / (MANY - FEW) as u64;
            part.waits = 0;
            few.since(&part)
        });
        let fixed = fixed.collect();
        self.put(each, entries, (MANY - FEW) as u64);
        self.put(rest, fixed, 1);
    }
}

/// A number of something for each operation.
fn each(count: u64, divisor: u64) -> String {
    match count {
        _ if count.is_multiple_of(divisor) => (count / divisor).to_string(),
        _ => format!("{count}/{divisor}"),
    }
}

fn row((operation, counts, divisor): &(&'static str, Vec<Count>, u64)) -> Row {
    let calls = |count: &Count| {
        let list = count
            .calls
            .iter()
            .map(|(name, count)| match each(*count, *divisor).as_str() {
                "1" => (*name).to_owned(),
                count => format!("{count} {name}"),
            });
        match list.collect::<Vec<_>>().join(", ") {
            empty if empty.is_empty() => "–".to_owned(),
            list => list,
        }
    };
    let allocations = |count: &Count| each(count.allocations, *divisor);
    let [supervisor, worker] = &counts[..] else {
        panic!("two processes")
    };
    [
        (*operation).to_owned(),
        calls(supervisor),
        calls(worker),
        allocations(supervisor),
        allocations(worker),
    ]
}

fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// The table as the document has it.
fn documented() -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/PERFORMANCE.md");
    let text = fs::read_to_string(path).expect("docs/PERFORMANCE.md");
    let section = text
        .split("\n## ")
        .find(|section| section.starts_with("System calls and allocations"));
    let lines = section
        .expect("a section")
        .lines()
        .filter(|line| line.starts_with("| "));
    let cells = |line: &str| -> Option<Row> {
        let cells = line
            .trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().to_owned());
        cells.collect::<Vec<_>>().try_into().ok()
    };
    // The first line is the head.
    lines.skip(1).filter_map(cells).collect()
}

/// Runs `scenario` three times, counting the last: the others fill tables and caches.
fn measure(options: &[&str], scenario: impl Fn(&Daemon, &Client, &mut Meter<'_>)) -> Vec<Row> {
    // Where no device is waited for, a read never finds its page in use.
    let share = TempDir::in_memory().expect("a directory in /dev/shm");
    let daemon = Launch::airlockfs().args(options).share(&share).start();
    let fs = daemon.client();
    let worker = daemon.worker().expect("a worker");
    let tracer = Tracer::attach(&[daemon.supervisor().pid(), worker.pid()]).expect("attach");
    let mut meter = Meter {
        tracer: &tracer,
        rows: Vec::new(),
    };
    for dir in ["few", "many", "dir"] {
        fs::create_dir(daemon.host(dir)).expect("mkdir");
    }
    for i in 0..MANY {
        if i < FEW {
            fs::write(daemon.host(format!("few/file{i}")), "").expect("write");
        }
        fs::write(daemon.host(format!("many/file{i}")), "").expect("write");
    }
    for i in 0..TIMES {
        fs::write(daemon.host(format!("dir/file{i}")), [b'x'; 8192]).expect("write");
    }
    for _ in 0..3 {
        scenario(&daemon, &fs, &mut meter);
    }
    meter.rows.iter().map(row).collect()
}

fn file(i: usize) -> String {
    format!("file{i}")
}

/// Lists a directory whole, and forgets what it saw.
fn list(fs: &Client, size: usize, plus: bool) -> usize {
    let dir = fs
        .lookup(ROOT, if size == FEW { "few" } else { "many" })
        .expect("LOOKUP")
        .nodeid;
    let handle = fs.opendir(dir).expect("OPENDIR");
    let count = if plus {
        fs.readdirplus_all(handle, WINDOW).expect("READDIRPLUS").len()
    } else {
        fs.readdir_all(handle, WINDOW).expect("READDIR").len()
    };
    fs.releasedir(handle).expect("RELEASEDIR");
    count
}

fn names(_: &Daemon, fs: &Client, meter: &mut Meter<'_>) {
    let dir = fs.lookup(ROOT, "dir").expect("LOOKUP").nodeid;
    let mut nodes = [0; TIMES];
    meter.of("LOOKUP, new", |i| {
        nodes[i] = fs.lookup(dir, file(i)).expect("LOOKUP").nodeid
    });
    meter.of("LOOKUP, known", |i| fs.lookup(dir, file(i)).expect("LOOKUP"));
    meter.of("LOOKUP, missing", |_| fs.lookup(dir, "none").expect_err("LOOKUP"));
    meter.of("GETATTR", |i| fs.getattr(nodes[i]).expect("GETATTR"));
    meter.of("SETATTR, mode", |i| {
        fs.setattr(nodes[i], SetAttr::default().mode(0o600))
            .expect("SETATTR")
    });
    meter.of("STATFS", |_| fs.statfs(ROOT).expect("STATFS"));
    meter.of("RENAME", |i| {
        fs.rename(dir, file(i), dir, format!("moved{i}")).expect("RENAME")
    });
    (0..TIMES).for_each(|i| fs.rename(dir, format!("moved{i}"), dir, file(i)).expect("RENAME"));
    meter.of("LINK", |i| {
        fs.link(nodes[i], dir, format!("link{i}")).expect("LINK")
    });
    (0..TIMES).for_each(|i| fs.unlink(dir, format!("link{i}")).expect("UNLINK"));
    meter.of("SYMLINK", |i| {
        fs.symlink(dir, format!("sym{i}"), "target").expect("SYMLINK")
    });
    let link = fs.lookup(dir, "sym0").expect("LOOKUP").nodeid;
    fs.readlink(link).expect("READLINK");
    meter.of("READLINK", |_| fs.readlink(link).expect("READLINK"));
    for i in 0..TIMES {
        let node = fs.lookup(dir, format!("sym{i}")).expect("LOOKUP").nodeid;
        fs.unlink(dir, format!("sym{i}")).expect("UNLINK");
        fs.forget(node, 100);
    }
    meter.of("FORGET, the last", |i| fs.forget(nodes[i], 100));
    let mut made = [0; TIMES];
    meter.of("MKDIR", |i| {
        made[i] = fs.mkdir(dir, format!("dir{i}"), 0o755).expect("MKDIR").nodeid
    });
    meter.of("RMDIR", |i| fs.rmdir(dir, format!("dir{i}")).expect("RMDIR"));
    made.iter().for_each(|node| fs.forget(*node, 1));
}

fn files(_: &Daemon, fs: &Client, meter: &mut Meter<'_>) {
    let dir = fs.lookup(ROOT, "dir").expect("LOOKUP").nodeid;
    let mut open = Vec::<Opened>::new();
    meter.of("CREATE", |i| {
        let flags = libc::O_RDWR | libc::O_EXCL;
        open.push(fs.create(dir, format!("new{i}"), flags, 0o644).expect("CREATE").1);
    });
    meter.of("WRITE of 4 KiB, the first", |i| {
        fs.write(open[i], 0, &[1; 4096]).expect("WRITE")
    });
    meter.of("UNLINK", |i| fs.unlink(dir, format!("new{i}")).expect("UNLINK"));
    meter.of("RELEASE after a WRITE", |i| fs.release(open[i]).expect("RELEASE"));
    open.drain(..).for_each(|file| fs.forget(file.node, 1));

    let nodes: Vec<u64> = (0..TIMES)
        .map(|i| fs.lookup(dir, file(i)).expect("LOOKUP").nodeid)
        .collect();
    meter.of("OPEN of an inode without a descriptor", |i| {
        open.push(fs.open(nodes[i], libc::O_RDWR).expect("OPEN"));
    });
    open.drain(..).for_each(|file| fs.release(file).expect("RELEASE"));
    meter.of("OPEN", |i| {
        open.push(fs.open(nodes[i], libc::O_RDWR).expect("OPEN"))
    });
    meter.of("RELEASE", |i| fs.release(open[i]).expect("RELEASE"));
    open.clear();
    open.extend(
        nodes
            .iter()
            .map(|node| fs.open(*node, libc::O_RDWR).expect("OPEN")),
    );
    meter.of("READ of 4 KiB, the first", |i| {
        fs.read(open[i], 0, 4096).expect("READ")
    });
    meter.of("READ of 4 KiB, the second", |i| {
        fs.read(open[i], 4096, 4096).expect("READ")
    });
    meter.of("READ of 4 KiB, later", |i| {
        fs.read(open[i], 0, 4096).expect("READ")
    });
    meter.of("WRITE of 4 KiB, later", |i| {
        fs.write(open[i], 0, &[1; 4096]).expect("WRITE")
    });
    meter.of("GETATTR by handle", |i| {
        fs.getattr_fh(nodes[i], open[i].fh).expect("GETATTR")
    });
    meter.limited("FSYNC", WAITS_POOL, |i| fs.fsync(open[i], false).expect("FSYNC"));
    meter.of("FLUSH", |i| fs.flush(open[i]));
    meter.of("RELEASE after READs", |i| fs.release(open[i]).expect("RELEASE"));
    nodes.iter().for_each(|node| fs.forget(*node, 1));
}

fn directories(_: &Daemon, fs: &Client, meter: &mut Meter<'_>) {
    let whole = "OPENDIR, all READDIRs, RELEASEDIR";
    meter.listing(["READDIR, an entry", whole], |size| list(fs, size, false));
    let whole = "OPENDIR, all READDIRPLUSes, RELEASEDIR";
    // Known from the run before.
    meter.listing(["READDIRPLUS, a known entry", whole], |size| list(fs, size, true));
}

#[test]
fn every_operation_costs_what_the_table_says() {
    let mut rows = measure(&["--tag", "cost"], |daemon, fs, meter| {
        names(daemon, fs, meter);
        files(daemon, fs, meter);
        directories(daemon, fs, meter);
    });
    rows.extend(measure(&["--xattr", "--posix-lock"], |daemon, fs, meter| {
        let node = fs.walk("dir/file0").expect("LOOKUP").nodeid;
        let path = daemon.host("dir/file0");
        fs.setxattr(node, "user.name", b"value", 0).expect("SETXATTR");
        assert!(path.exists());
        meter.of("GETXATTR (`--xattr`)", |_| {
            fs.getxattr(node, "user.name", 64).expect("GETXATTR")
        });
        meter.of("LISTXATTR (`--xattr`)", |_| {
            fs.listxattr(node, 64).expect("LISTXATTR")
        });
        let open = fs.open(node, libc::O_RDWR).expect("OPEN");
        meter.of("FLUSH (`--posix-lock`)", |_| fs.flush(open).expect("FLUSH"));
        fs.release(open).expect("RELEASE");
    }));
    rows.extend(measure(&["--no-donate"], |_, fs, meter| {
        let open = fs
            .open(fs.walk("dir/file0").expect("LOOKUP").nodeid, libc::O_RDWR)
            .expect("OPEN");
        meter.of("READ of 4 KiB (`--no-donate`)", |_| {
            fs.read(open, 0, 4096).expect("READ")
        });
        meter.of("WRITE of 4 KiB (`--no-donate`)", |_| {
            fs.write(open, 0, &[1; 4096]).expect("WRITE")
        });
        fs.release(open).expect("RELEASE");
    }));
    let documented = documented();
    let by_name = |rows: &[Row]| -> BTreeMap<String, Row> {
        rows.iter().map(|row| (row[0].clone(), row.clone())).collect()
    };
    let (found, wanted) = (by_name(&rows), by_name(&documented));
    let differs = found
        .keys()
        .chain(wanted.keys())
        .filter(|name| found.get(*name) != wanted.get(*name));
    let differs: Vec<&String> = differs.collect();
    assert!(
        differs.is_empty(),
        "these cost something else than docs/PERFORMANCE.md says: {differs:?}; measured:\n{}",
        table(&rows)
    );
}
