//! KVM or emulation: KVM only where a guest has really booted with it.
//!
//! On some nested hosts `/dev/kvm` opens, but every guest dies or hangs. So its presence proves
//! nothing.

use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use crate::image::Program;
use crate::qemu::{Machine, Vm};
use crate::{kernel, paths};

/// How QEMU executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor's virtualisation.
    Kvm,
    /// Emulation, a thread per virtual CPU.
    Tcg,
}

impl Accel {
    /// QEMU's arguments.
    pub fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// How long a guest that does nothing may take with KVM: it takes about one second.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// The accelerator to use. Probes once per process, and keeps the answer in `target/guest/` until
/// the host reboots.
pub fn choose() -> Accel {
    static ANSWER: OnceLock<Accel> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        if fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
        {
            return Accel::Tcg;
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.trim();
        let answer = paths::guest_cache().join("accel");
        match fs::read_to_string(&answer) {
            Ok(text) if !boot.is_empty() && text == format!("{boot} kvm") => return Accel::Kvm,
            Ok(text) if !boot.is_empty() && text == format!("{boot} tcg") => return Accel::Tcg,
            _ => {}
        }
        let (accel, name) = if boots_with_kvm() {
            (Accel::Kvm, "kvm")
        } else {
            (Accel::Tcg, "tcg")
        };
        // Without the note the next run probes again.
        let _ = fs::write(&answer, format!("{boot} {name}"));
        accel
    })
}

/// Whether a guest that does nothing reaches its end.
fn boots_with_kvm() -> bool {
    let program = Program {
        tag: None,
        ..Program::new("", "exit 0\n")
    };
    let machine = Machine {
        accel: Some(Accel::Kvm),
        ..Machine::default()
    };
    kernel::get()
        .and_then(|kernel| Vm::start(&kernel, &program, &machine))
        .and_then(|mut vm| vm.finish(PROBE_LIMIT))
        .is_ok_and(|status| status == 0)
}
