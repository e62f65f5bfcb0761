//! A Linux guest in QEMU works on a host directory through the real binaries.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use airlockfs_tests::daemon::{Daemon, Launch, bin_dir};
use airlockfs_tests::mount::Mount;
use airlockfs_tests::tempdir::TempDir;
use anyhow::Result;
use xtask::image::Program;
use xtask::kernel;
use xtask::qemu::{Machine, Vm};
use xtask::workload::{LIMIT, Workload};

const TAG: &str = "share";

/// Boots a guest with `program` on the daemon's share.
fn boot(daemon: &mut Daemon, program: &Program, machine: Machine) -> Result<Vm> {
    let share = Some((daemon.socket().to_path_buf(), TAG.to_owned()));
    let machine = Machine { share, ..machine };
    Vm::boot(&kernel::get()?, program, &machine, || daemon.restart())
}

/// Runs a script in a guest that finds the share at /mnt. The first command that fails ends it, and the test.
fn guest(daemon: &mut Daemon, script: &str) -> Result<()> {
    guest_on(daemon, script, Machine::default())
}

fn guest_on(daemon: &mut Daemon, script: &str, machine: Machine) -> Result<()> {
    let program = Program::new(TAG, &format!("set -eux\ncd /mnt\n{script}\n"));
    let mut vm = boot(daemon, &program, machine)?;
    let status = vm.finish(LIMIT)?;
    assert_eq!(status, 0, "the guest's console:\n{}", vm.console());
    vm.power_off(LIMIT)
}

/// The demo's work, with more options for the daemon.
fn workload(options: &[&str]) -> Result<()> {
    let mut daemon = Daemon::start([&["--tag", TAG, "--xattr"], options].concat());
    let work = Workload::prepare(daemon.share())?;
    let program = Workload::program(TAG, &bin_dir()?.join("guest-tool"))?;
    let mut vm = boot(&mut daemon, &program, Machine::default())?;
    let view = work.follow(&mut vm, |line| println!("{line}"), || Ok(()))?;
    work.compare(&view, |_| ())?;
    vm.power_off(LIMIT)
}

#[test]
fn a_guest_works_on_a_host_directory() -> Result<()> {
    workload(&[])
}

#[test]
fn the_same_work_is_served_when_file_data_takes_the_ring() -> Result<()> {
    workload(&["--no-donate"])
}

#[test]
fn several_shares_are_mounts_of_their_own_in_a_guest() -> Result<()> {
    let home = TempDir::new()?;
    for name in ["a", "b"] {
        fs::create_dir(home.join(name))?;
        fs::write(home.join(name).join("file"), name)?;
    }
    fs::write(home.join("single"), "single")?;
    let path = |name: &str| home.join(name).display().to_string();
    let mut daemon = Launch::airlockfs()
        .by_name()
        .args([
            format!("--tag={TAG}"),
            format!("--share=one={}", path("a")),
            format!("--share-ro=two={}", path("b")),
            format!("--share=file={}", path("single")),
        ])
        .start();
    let script = "
        refused() { if \"$@\"; then exit 1; fi; }
        test \"$(ls | tr '\\n' ' ')\" = 'file one two '
        test \"$(cat one/file two/file file)\" = absingle
        test \"$(stat -c %d one)\" != \"$(stat -c %d two)\"
        test \"$(stat -c %d one)\" != \"$(stat -c %d .)\"
        refused mkdir new
        refused touch two/new
        refused ln one/file two/new
        refused ln two/file one/new
        cp two/file one/copy
        mv one/copy one/moved
        echo written > file
    ";
    guest(&mut daemon, script)?;
    assert_eq!(fs::read_to_string(home.join("a/moved"))?, "b");
    assert_eq!(fs::read_to_string(home.join("single"))?, "written\n");
    assert_eq!(fs::read_dir(home.join("b"))?.count(), 1);
    Ok(())
}

#[test]
fn file_systems_beneath_the_share_are_told_apart_and_keep_their_files_in_a_guest() -> Result<()> {
    let home = TempDir::new()?;
    let dir = |name: &str| -> Result<PathBuf> {
        fs::create_dir_all(home.join(name))?;
        Ok(home.join(name))
    };
    fs::write(dir("lower/app")?.join("file"), "lower")?;
    let share = dir("share")?;
    let _shared = Mount::shared(&share)?;
    let (at, lower, upper, work) = (dir("share/rootfs")?, dir("lower")?, dir("upper")?, dir("work")?);
    let _overlay = Mount::overlay(&at, &lower, &upper, &work, "xino=off")?;
    let volumes = dir("share/volumes")?;
    let _btrfs = Mount::image(&volumes, &home.join("image"), 128, "mkfs.btrfs", &["-q"]);
    for name in ["one", "two"] {
        let mut btrfs = std::process::Command::new("btrfs");
        btrfs.args(["-q", "subvolume", "create"]).arg(volumes.join(name));
        assert!(btrfs.status()?.success());
        fs::write(volumes.join(name).join("a"), name)?;
        fs::hard_link(volumes.join(name).join("a"), volumes.join(name).join("b"))?;
    }
    let mut daemon = Launch::airlockfs().args(["--tag", TAG]).share(&share).start();
    // The worker lets go of a mount some seconds after its last use: the guest's working directory is still itself.
    let script = "
        cd rootfs/app
        echo upper > new
        sleep 6
        test \"$(ls | tr '\\n' ' ')\" = 'file new '
        test \"$(cat file new | tr '\\n' ' ')\" = 'lowerupper '
        cd /mnt/volumes
        test \"$(find . -type f | sort | tr '\\n' ' ')\" = './one/a ./one/b ./two/a ./two/b '
        test \"$(cat one/a one/b two/a two/b)\" = oneonetwotwo
        test \"$(stat -c %d one)\" != \"$(stat -c %d two)\"
        test \"$(stat -c %d:%i one/a)\" = \"$(stat -c %d:%i one/b)\"
        test \"$(stat -c %d:%i one/a)\" != \"$(stat -c %d:%i two/a)\"
    ";
    guest(&mut daemon, script)
}

#[test]
fn four_request_queues_serve_four_processors_at_once() -> Result<()> {
    let mut daemon = Daemon::start(["--tag", TAG, "--num-request-queues", "4"]);
    let script = "
        for n in 1 2 3 4; do
            (
                set -e
                mkdir work-$n
                dd if=/dev/urandom of=/tmp/$n bs=64k count=32 2> /dev/null
                for turn in 1 2 3 4 5; do
                    taskset $((1 << (n - 1))) cp /tmp/$n work-$n/file-$turn
                    mv work-$n/file-$turn work-$n/moved-$turn
                    taskset $((1 << (n - 1))) cmp /tmp/$n work-$n/moved-$turn
                done
                touch work-$n/done
            ) &
        done
        wait
        ls work-1/done work-2/done work-3/done work-4/done
    ";
    guest_on(
        &mut daemon,
        script,
        Machine {
            cpus: 4,
            request_queues: 4,
            ..Machine::default()
        },
    )?;
    for n in 1..=4 {
        let first = fs::read(daemon.host(format!("work-{n}/moved-1")))?;
        assert_eq!(first.len(), 32 << 16);
        for turn in 2..=5 {
            assert!(
                fs::read(daemon.host(format!("work-{n}/moved-{turn}")))? == first,
                "work-{n}/moved-{turn}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_small_queue_serves_large_files() -> Result<()> {
    let mut daemon = Daemon::start(["--tag", TAG]);
    let script = "
        dd if=/dev/urandom of=/tmp/data bs=1M count=8
        cp /tmp/data data
        echo 3 > /proc/sys/vm/drop_caches
        cmp /tmp/data data
    ";
    guest_on(
        &mut daemon,
        script,
        Machine {
            queue_size: 128,
            ..Machine::default()
        },
    )
}

#[test]
fn a_read_only_share_can_be_read_and_not_changed() -> Result<()> {
    read_only(&[])
}

#[test]
fn a_read_only_share_is_read_without_opening_it() -> Result<()> {
    read_only(&["--cache=always"])
}

fn read_only(options: &[&str]) -> Result<()> {
    let mut daemon = Daemon::start([&["--tag", TAG, "--readonly"], options].concat());
    fs::write(daemon.host("file"), "content\n")?;
    fs::create_dir(daemon.host("dir"))?;
    let script = "
        [ \"$(cat file)\" = content ]
        refused() {
            if why=$(\"$@\" 2>&1); then echo \"allowed: $*\"; exit 1; fi
            case $why in
                *'Read-only file system'*) ;;
                *) echo \"$*: $why\"; exit 1 ;;
            esac
        }
        refused touch new
        refused sh -c 'echo more >> file'
        refused truncate -s 0 file
        refused mkdir new
        refused mknod new p
        refused ln -s file new
        refused ln file new
        refused mv file new
        refused rm file
        refused rmdir dir
        refused chmod 777 file
        refused chown 7 file
        refused touch -d '2001-02-03 04:05:06' file
        [ \"$(ls)\" = \"$(printf 'dir\\nfile')\" ]
    ";
    guest(&mut daemon, script)?;
    assert_eq!(fs::read_to_string(daemon.host("file"))?, "content\n");
    assert_eq!(fs::read_dir(daemon.share())?.count(), 2);
    Ok(())
}

#[test]
fn a_guest_can_unmount_and_mount_again() -> Result<()> {
    let mut daemon = Daemon::start(["--tag", TAG]);
    let script = "
        for turn in 1 2 3; do
            echo $turn > turn-$turn
            cd /
            umount /mnt
            [ -z \"$(ls /mnt)\" ]
            mount -t virtiofs $TAG /mnt
            cd /mnt
            [ \"$(cat turn-$turn)\" = $turn ]
        done
    ";
    guest(&mut daemon, script)
}

#[test]
fn a_guest_that_reboots_finds_its_files() -> Result<()> {
    let mut daemon = Daemon::start(["--tag", TAG]);
    let script = "
        echo booted >> boots
        mkdir dir-$(cat boots | wc -l)
        case $(cat boots | wc -l) in
            1) exec 5> held; reboot -f; sleep 1000 ;;
            2) rm held; ls -d dir-1 dir-2 ;;
            *) exit 1 ;;
        esac
    ";
    guest_on(
        &mut daemon,
        script,
        Machine {
            reboots: true,
            ..Machine::default()
        },
    )
}

#[test]
fn the_daemon_ends_with_the_guest_or_waits_for_the_next() -> Result<()> {
    let mut daemon = Daemon::start(["--tag", TAG]);
    guest(&mut daemon, "echo first > file")?;
    assert!(daemon.wait().success());

    let mut daemon = Daemon::start(["--tag", TAG, "--on-disconnect", "listen"]);
    guest(&mut daemon, "echo first > file")?;
    guest(&mut daemon, "[ \"$(cat file)\" = first ]; echo second > file")?;
    assert_eq!(fs::read_to_string(daemon.host("file"))?, "second\n");
    assert!(daemon.terminate().success());
    Ok(())
}

#[test]
fn links_lead_to_the_guests_files_and_never_to_the_hosts() -> Result<()> {
    let mut daemon = Daemon::start(["--tag", TAG]);
    let outside = daemon.share().with_file_name("outside");
    fs::write(&outside, "secret")?;
    symlink(&outside, daemon.host("absolute"))?;
    symlink("../outside", daemon.host("relative"))?;
    symlink("..", daemon.host("up"))?;
    let script = "
        [ -L absolute ]
        [ ! -e absolute ]
        [ -L relative ]
        [ ! -e relative ]
        ln -s /proc/self/status status
        grep -q '^Name:' status
        [ \"$(ls up/)\" = \"$(ls /)\" ]
        [ ! -e up/outside ]
        chmod 600 relative && exit 1
        mkdir dir
        ln -s dir link
        echo through > link/file
        [ \"$(cat dir/file)\" = through ]
    ";
    guest(&mut daemon, script)?;
    assert_eq!(fs::read_to_string(&outside)?, "secret");
    assert_eq!(fs::read_to_string(daemon.host("dir/file"))?, "through\n");
    Ok(())
}

#[test]
fn fifos_belong_to_the_guests_kernel() -> Result<()> {
    let mut daemon = Daemon::start(["--tag", TAG]);
    let script = "
        mkfifo fifo
        echo 'within the guest' > fifo &
        [ \"$(cat fifo)\" = 'within the guest' ]
        wait
    ";
    guest(&mut daemon, script)?;
    assert!(fs::symlink_metadata(daemon.host("fifo"))?.file_type().is_fifo());
    Ok(())
}

#[test]
fn programs_run_from_the_share() -> Result<()> {
    let mut daemon = Daemon::start(["--tag", TAG]);
    let script = "
        cp /bin/busybox .
        [ \"$(./busybox echo it runs)\" = 'it runs' ]
    ";
    guest(&mut daemon, script)?;
    assert_eq!(
        fs::metadata(daemon.host("busybox"))?.permissions().mode() & 0o777,
        0o755
    );
    Ok(())
}

#[test]
fn the_guests_umask_and_owner_reach_the_host() -> Result<()> {
    let mut daemon = Daemon::start(["--tag", TAG]);
    let script = "
        chmod 777 .
        umask 0
        mkdir open
        echo x > open/file
        umask 077
        mkdir closed
        adduser() { echo \"$1:x:$2:$2::/:/bin/sh\" >> /etc/passwd; }
        adduser root 0
        adduser user 1234
        su user -c 'umask 022; echo mine > /mnt/mine'
        [ \"$(stat -c '%u %g' mine)\" = '1234 1234' ]
        su user -c 'cat /mnt/closed/file' && exit 1
        su user -c 'cat /mnt/open/file'
    ";
    guest(&mut daemon, script)?;
    let mode = |name: &str| -> Result<u32> { Ok(fs::metadata(daemon.host(name))?.mode() & 0o7777) };
    assert_eq!(mode("open")?, 0o777);
    assert_eq!(mode("open/file")?, 0o666);
    assert_eq!(mode("closed")?, 0o700);
    assert_eq!(mode("mine")?, 0o644);
    assert_eq!(fs::metadata(daemon.host("mine"))?.uid(), 1234);
    Ok(())
}
