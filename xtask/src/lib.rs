//! What the developer's commands and the guest tests share: packages, guest kernel and image, QEMU,
//! the daemon.
//!
//! A run reads top to bottom: [`provision`] installs, [`kernel`] and [`image`] make what boots,
//! [`daemon`] starts the two processes, [`qemu`] runs a guest against their socket, [`workload`] is
//! what it does there, [`process`] shows what the kernel says about them; [`conformance`] runs the
//! suites that know what a file system has to do.

pub mod accel;
pub mod apt;
pub mod bench;
pub mod binaries;
pub mod command;
pub mod compare;
pub mod conformance;
pub mod coverage;
pub mod cpio;
pub mod daemon;
pub mod demo;
pub mod filter;
pub mod image;
pub mod kernel;
pub mod modules;
pub mod paths;
pub mod peer;
pub mod process;
pub mod provision;
pub mod qemu;
pub mod tiers;
pub mod workload;
