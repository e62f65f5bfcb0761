//! Stands in for `airlockfs-worker` in tests, where the test plays the worker. A test listens on
//! the socket `strings` beside this program. The program passes to it all that `airlockfsd` gave
//! it, and ends when the test closes that socket.
#![allow(unsafe_code, reason = "descriptors come as numbers")]

use std::io::{IoSlice, IoSliceMut, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

fn main() -> Result<()> {
    // SAFETY: descriptor 3 is the control channel, as the real worker has it; nothing else here
    // knows it.
    let control = unsafe { OwnedFd::from_raw_fd(3) };
    let mut bytes = vec![0; 64 << 10];
    let mut space = nix::cmsg_space!([RawFd; 64]);
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(3, &mut buffers, Some(&mut space), MsgFlags::empty())?;
    let length = message.bytes;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just made them for this process.
            descriptors.extend(
                numbers
                    .into_iter()
                    .map(|number| unsafe { OwnedFd::from_raw_fd(number) }),
            );
        }
    }
    descriptors.push(control);
    let own = std::fs::read_link("/proc/self/exe")?;
    let mut strings = UnixStream::connect(own.with_file_name("strings")).context("the test's socket")?;
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let text = [IoSlice::new(&bytes[..length])];
    sendmsg::<()>(strings.as_raw_fd(), &text, &rights, MsgFlags::empty(), None)?;
    drop(descriptors);
    // End of file: the test wants it to end.
    while matches!(strings.read(&mut [0; 64]), Ok(n) if n > 0) {}
    Ok(())
}
