//! The profiles that `airlockfsd policy show` prints for a command line. The attacks are made from
//! them.

use std::os::unix::process::CommandExt;
use std::process::Command;

use airlockfs_tests::daemon::bin_dir;
use serde_json::Value;

/// One process's profile.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// The name of exactly this profile.
    pub(crate) digest: String,
    pub(crate) rules: Vec<Rule>,
}

/// A line of its table of system calls.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) number: i64,
    /// Alternatives, one of which must hold whole; none: any arguments.
    pub(crate) alternatives: Vec<Vec<Pin>>,
    /// It is answered with this error number instead.
    pub(crate) errno: Option<i64>,
}

/// A pinned argument: these bits of the register have this value, or do not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pin {
    pub(crate) index: usize,
    pub(crate) mask: u64,
    pub(crate) value: u64,
    /// The value is the one that does not pass.
    pub(crate) not: bool,
}

/// What the filter has to do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passes,
    Answered(i64),
    Forbidden,
}

impl Policy {
    pub(crate) fn verdict(&self, number: i64, registers: &[u64; 6]) -> Verdict {
        let of_number = || self.rules.iter().filter(|rule| rule.number == number);
        if let Some(errno) = of_number().find_map(|rule| rule.errno) {
            return Verdict::Answered(errno);
        }
        let holds = |pins: &Vec<Pin>| pins.iter().all(|pin| pin.matches(registers));
        match of_number().any(|rule| rule.alternatives.is_empty() || rule.alternatives.iter().any(holds)) {
            true => Verdict::Passes,
            false => Verdict::Forbidden,
        }
    }

    /// Whether any arguments pass.
    pub(crate) fn lists(&self, number: i64) -> bool {
        self.rules.iter().any(|rule| rule.number == number)
    }
}

impl Pin {
    fn matches(&self, registers: &[u64; 6]) -> bool {
        (registers[self.index] & self.mask == self.value) != self.not
    }
}

/// What the shipped `airlockfsd` says that supervisor and worker may do when `user` starts it with these options.
pub(crate) fn shown(options: &[&str], user: Option<u32>) -> [Policy; 2] {
    let mut command = Command::new(bin_dir().expect("a place for binaries").join("airlockfsd"));
    command.args(["policy", "show", "--format", "json"]).args(options);
    if let Some(uid) = user {
        command.uid(uid).gid(uid);
    }
    let output = command.output().expect("airlockfsd");
    assert!(output.status.success(), "{output:?}");
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    ["supervisor", "worker"].map(|process| policy(&shown[process]))
}

fn policy(shown: &Value) -> Policy {
    Policy {
        digest: text(&shown["digest"]),
        rules: list(&shown["syscalls"]).map(rule).collect(),
    }
}

fn rule(shown: &Value) -> Rule {
    Rule {
        name: text(&shown["name"]),
        number: shown["number"].as_i64().expect("a number"),
        alternatives: list(&shown["arguments"])
            .map(|pins| list(pins).map(pin).collect())
            .collect(),
        errno: shown["errno"].as_i64(),
    }
}

fn pin(shown: &Value) -> Pin {
    let width = match shown["bits"].as_u64() {
        Some(32) => u64::from(u32::MAX),
        Some(64) => u64::MAX,
        other => panic!("a register of {other:?} bits"),
    };
    Pin {
        index: shown["index"].as_u64().expect("an index") as usize,
        mask: shown["mask"].as_str().map_or(width, hexadecimal),
        value: hexadecimal(shown["value"].as_str().expect("a value")),
        not: shown["not"] == true,
    }
}

fn hexadecimal(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a hexadecimal number")
}

fn list(shown: &Value) -> impl Iterator<Item = &Value> {
    shown.as_array().expect("a list").iter()
}

fn text(shown: &Value) -> String {
    shown.as_str().expect("text").to_owned()
}
