//! What there is to run: one row per suite.

use std::path::Path;

use anyhow::Result;

use super::Setup;
use super::grounds::Grounds;
use super::guest::Guest;

/// A program, or a file by its path, and the Debian package that holds it.
type Need = (&'static str, &'static str);

/// A suite: a script in tests/conformance, and what it takes.
#[derive(Debug)]
pub(super) struct Suite {
    /// Its name; two suites may run one script with other options.
    pub(super) name: &'static str,
    /// The script, without `.sh`.
    pub(super) script: &'static str,
    /// What it shows, for a person.
    pub(super) about: &'static str,
    /// Programs it runs.
    pub(super) packages: &'static [Need],
    /// Programs from crates.io: name and version.
    pub(super) crates: &'static [(&'static str, &'static str)],
    /// Options of the daemon that virtiofsd knows too.
    pub(super) options: &'static [&'static str],
    /// Options of ours beyond these.
    pub(super) own_options: &'static [&'static str],
    /// Who else works on the same directory, as the script asks for it.
    pub(super) second: Second,
    /// Whether it finds other file systems in its directory.
    pub(super) grounds: bool,
    /// What it takes in a guest, if it can run in one.
    pub(super) guest: Option<Guest>,
    /// Whether it runs only where the command line names the directory of its sources.
    pub(super) from_source: bool,
    /// Whether `--quick` runs it.
    pub(super) quick: bool,
    /// It does one of so many of the operations asked for.
    pub(super) share: u64,
    /// How long it may take at any place, in minutes.
    pub(super) minutes: u64,
}

/// Who works on a suite's directory beside its script.
#[derive(Debug, Clone, Copy)]
pub(super) enum Second {
    None,
    /// A second daemon's share of it; in guests a second guest's.
    Daemon,
    /// The host, in the directory itself.
    Host,
}

impl Suite {
    /// Mounts the other file systems in its directory, if it wants them.
    pub(super) fn grounds(&self, dir: &Path, setup: &Setup) -> Result<Option<Grounds>> {
        self.grounds.then(|| Grounds::lay(dir, setup)).transpose()
    }

    /// The field suite's rows differ by the daemon's options.
    const FIELD: Self = Self {
        script: "field",
        packages: &[
            ("setfacl", "acl"),
            ("setfattr", "attr"),
            ("tar", "tar"),
            ("chattr", "e2fsprogs"),
            ("mkfs.btrfs", "btrfs-progs"),
            ("mkfs.xfs", "xfsprogs"),
        ],
        second: Second::Host,
        grounds: true,
        guest: Some(Guest {
            queues: 8,
            ..Guest::with(&[
                "tar",
                "find",
                "sort",
                "stat",
                "cp",
                "mv",
                "rm",
                "ls",
                "dd",
                "cmp",
                "diff",
                "touch",
                "truncate",
                "fallocate",
                "setpriv",
                "chattr",
                "getfacl",
                "setfacl",
                "getfattr",
                "setfattr",
                "flock",
                "mount",
            ])
        }),
        ..Self::DEFAULT
    };

    const DEFAULT: Self = Self {
        name: "",
        script: "",
        about: "",
        packages: &[],
        crates: &[],
        options: &[],
        own_options: &[],
        second: Second::None,
        grounds: false,
        guest: None,
        from_source: false,
        quick: false,
        share: 1,
        minutes: 30,
    };

    /// A few lines for `--list`.
    pub(super) fn describe(&self) -> String {
        let crates = self
            .crates
            .iter()
            .map(|(name, version)| format!("{name} {version}"));
        let packages = self.packages.iter().map(|(_, package)| (*package).to_owned());
        let takes: Vec<String> = crates.chain(packages).collect();
        format!(
            "{}: {}\n    takes {}\n    options {}\n    {}",
            self.name,
            self.about,
            takes.join(", "),
            [self.options, self.own_options].concat().join(" "),
            if self.quick {
                "in --quick"
            } else {
                "not in --quick"
            }
        )
    }
}

const PJDFSTEST: (&str, &str) = ("pjdfstest", "0.2.2");
const FSX: (&str, &str) = ("fsx", "0.3.2");

/// Every suite.
pub(super) const SUITES: &[Suite] = &[
    Suite {
        name: "pjdfstest",
        script: "pjdfstest",
        about: "what POSIX says of every call that names a file, as root and as two users",
        packages: &[("cc", "gcc"), ("setfacl", "acl")],
        crates: &[PJDFSTEST],
        options: &["--xattr", "--posix-acl", "--killpriv-v2"],
        own_options: &["--allow-device-nodes"],
        quick: true,
        guest: Some(Guest::with(&[])),
        ..Suite::DEFAULT
    },
    Suite {
        name: "fsx",
        script: "fsx",
        about: "random operations on one file against a model, through the page cache, mappings and O_DIRECT",
        crates: &[FSX],
        options: &["--allow-direct-io"],
        quick: true,
        minutes: 240,
        guest: Some(Guest::with(&[])),
        ..Suite::DEFAULT
    },
    Suite {
        name: "fsx-uncached",
        share: 10,
        script: "fsx",
        about: "the same without a cache in the guest, mappings included",
        crates: &[FSX],
        options: &["--cache", "never", "--allow-mmap", "--allow-direct-io"],
        quick: true,
        minutes: 240,
        guest: Some(Guest {
            // Shared mappings of files that bypass the cache; Debian 12's own kernel is older.
            since: (6, 6),
            ..Guest::with(&[])
        }),
        ..Suite::DEFAULT
    },
    Suite {
        name: "fsx-writeback",
        share: 10,
        script: "fsx",
        about: "the same with the write-back cache, and O_DIRECT in the guest alone",
        crates: &[FSX],
        options: &["--cache", "always", "--writeback"],
        minutes: 240,
        guest: Some(Guest::with(&[])),
        ..Suite::DEFAULT
    },
    Suite {
        name: "fio",
        script: "fio",
        about: "every engine writes, two processes at a time, and verifies what it reads back",
        packages: &[("fio", "fio")],
        options: &["--allow-direct-io"],
        quick: true,
        guest: Some(Guest::with(&["fio"])),
        ..Suite::DEFAULT
    },
    Suite {
        name: "stress",
        script: "stress",
        about: "stress-ng's file-system class",
        packages: &[("stress-ng", "stress-ng")],
        options: &["--xattr", "--posix-acl", "--killpriv-v2", "--allow-direct-io"],
        own_options: &["--allow-device-nodes"],
        minutes: 60,
        guest: Some(Guest::with(&["stress-ng"])),
        ..Suite::DEFAULT
    },
    Suite {
        name: "stress-locks",
        script: "stress",
        about: "the same with locks on the host",
        packages: &[("stress-ng", "stress-ng")],
        options: &["--xattr", "--posix-acl", "--killpriv-v2", "--allow-direct-io"],
        own_options: &["--allow-device-nodes", "--posix-lock", "--flock"],
        minutes: 60,
        // The stressor lockf kills who waits for a lock of its own. virtio-fs passes no interrupt on, so in a guest that
        // process waits on, and lockf for it.
        guest: None,
        ..Suite::DEFAULT
    },
    Suite {
        name: "sqlite",
        script: "sqlite",
        about: "two processes write to a database with every kind of journal, writers are killed",
        packages: &[("sqlite3", "sqlite3")],
        own_options: &["--posix-lock"],
        quick: true,
        guest: Some(Guest::with(&["sqlite3"])),
        ..Suite::DEFAULT
    },
    Suite {
        name: "git",
        script: "git",
        about: "a repository of 10,000 files is made, cloned, checked, merged, packed",
        packages: &[("git", "git")],
        quick: true,
        guest: Some(Guest::with(&["git", "git-upload-pack", "diff"])),
        ..Suite::DEFAULT
    },
    Suite {
        name: "tar",
        script: "tar",
        about: "a tree with everything that a file can have goes out and in again",
        packages: &[
            ("setfacl", "acl"),
            ("setfattr", "attr"),
            ("setcap", "libcap2-bin"),
            ("tar", "tar"),
        ],
        options: &["--xattr", "--posix-acl"],
        own_options: &["--allow-device-nodes"],
        quick: true,
        guest: Some(Guest::with(&[
            "tar",
            "find",
            "stat",
            "sort",
            "cp",
            "dd",
            "touch",
            "sha256sum",
            "truncate",
            "getfacl",
            "setfacl",
            "getfattr",
            "setfattr",
            "setcap",
        ])),
        ..Suite::DEFAULT
    },
    Suite {
        name: "debian",
        script: "debian",
        about: "debootstrap fills a chroot, dpkg works in it",
        packages: &[("debootstrap", "debootstrap")],
        options: &["--xattr", "--posix-acl"],
        own_options: &["--allow-device-nodes"],
        minutes: 60,
        guest: Some(Guest {
            tools: &[
                "debootstrap",
                "dpkg",
                "dpkg-deb",
                "perl",
                "tar",
                "gzip",
                "xz",
                "zstd",
                "chroot",
                "mount",
                "sort",
                "cp",
                "sha256sum",
                "mknod",
                "rm",
            ],
            tree: Some("/usr/share/debootstrap"),
            cache: true,
            ..Guest::with(&[])
        }),
        ..Suite::DEFAULT
    },
    Suite {
        name: "overlay",
        script: "overlay",
        about: "overlayfs with upper and work directory on the share",
        packages: &[("setfacl", "acl"), ("setfattr", "attr")],
        options: &["--xattr", "--posix-acl"],
        own_options: &["--allow-device-nodes"],
        quick: true,
        guest: Some(Guest::with(&[
            "find",
            "stat",
            "mount",
            "mountpoint",
            "touch",
            "getfacl",
            "setfacl",
            "getfattr",
            "setfattr",
        ])),
        ..Suite::DEFAULT
    },
    Suite {
        name: "locks",
        script: "locks",
        about: "users of two daemons on one directory exclude each other",
        options: &["--cache", "never"],
        own_options: &["--posix-lock", "--flock"],
        second: Second::Daemon,
        quick: true,
        guest: Some(Guest::with(&[])),
        ..Suite::DEFAULT
    },
    Suite {
        name: "field",
        about: "what went wrong on the file systems that people share: names, identity, holes, ids",
        options: &["--xattr", "--posix-acl"],
        own_options: &["--allow-immutable", "--file-handles"],
        quick: true,
        ..Suite::FIELD
    },
    Suite {
        name: "field-never",
        about: "the same without a cache, with locks on the host that are waited for 5 seconds, and --killpriv-v2",
        options: &["--cache", "never", "--killpriv-v2"],
        own_options: &["--posix-lock", "--flock", "--lock-wait", "5"],
        ..Suite::FIELD
    },
    Suite {
        name: "field-always",
        about: "the same with a cache that is never asked again, and a map for trusted attributes",
        options: &[
            "--cache",
            "always",
            "--xattr",
            "--posix-acl",
            "--xattrmap",
            ":map:trusted.:user.virtiofs.:",
        ],
        ..Suite::FIELD
    },
    Suite {
        name: "field-writeback",
        about: "the same with the write-back cache, and --killpriv-v2",
        options: &["--cache", "always", "--writeback", "--killpriv-v2"],
        ..Suite::FIELD
    },
    Suite {
        name: "field-readonly",
        about: "the host changes what is read without being opened",
        options: &["--readonly", "--cache", "always"],
        // The script could ask for nothing on the host.
        guest: None,
        ..Suite::FIELD
    },
    Suite {
        name: "field-idmap",
        about: "the share mounted once more with other ids",
        guest: Some(Guest {
            // FUSE_ALLOW_IDMAP.
            since: (6, 12),
            ..Guest::with(&["stat", "setpriv", "chown"])
        }),
        ..Suite::FIELD
    },
    Suite {
        name: "xfstests",
        script: "xfstests",
        about: "the generic quick group of xfstests, whose sources --xfstests-source names",
        packages: &[
            ("make", "make"),
            ("gcc", "gcc"),
            ("autoconf", "autoconf"),
            ("automake", "automake"),
            ("libtoolize", "libtool"),
            ("xfs_io", "xfsprogs"),
            ("setfacl", "acl"),
            ("setfattr", "attr"),
            ("capsh", "libcap2-bin"),
            ("chattr", "e2fsprogs"),
            ("gawk", "gawk"),
            ("bc", "bc"),
            ("/usr/include/xfs/xfs.h", "xfslibs-dev"),
            ("/usr/include/uuid/uuid.h", "uuid-dev"),
            ("/usr/include/acl/libacl.h", "libacl1-dev"),
            ("/usr/include/libaio.h", "libaio-dev"),
        ],
        options: &["--xattr", "--posix-acl"],
        own_options: &["--allow-device-nodes", "--allow-immutable", "--file-handles"],
        from_source: true,
        minutes: 300,
        ..Suite::DEFAULT
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths;

    #[test]
    fn every_suite_has_its_script_and_every_script_is_run() {
        let dir = paths::workspace().join("tests/conformance");
        for suite in SUITES {
            assert!(
                dir.join(format!("{}.sh", suite.script)).is_file(),
                "{}",
                suite.name
            );
        }
        let names: Vec<_> = SUITES.iter().map(|suite| suite.name).collect();
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name} is there twice");
        }
        let scripts = std::fs::read_dir(dir).expect("tests/conformance");
        for script in scripts.map(|entry| entry.expect("an entry").path()) {
            let name = script.file_stem().expect("a name").to_string_lossy();
            let used = SUITES.iter().any(|suite| suite.script == name);
            assert!(
                used || ["lib", "agent", "excuses"].contains(&&*name),
                "nothing runs {name}"
            );
        }
    }
}
