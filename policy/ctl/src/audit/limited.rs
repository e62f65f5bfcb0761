//! The audit in a process of its own, which can be left behind: what a process shows may lie on a file system whose server
//! does not answer, and the kernel lets nobody go who waits for that.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::iter;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::failed_to_audit;

/// How long it may take: far more than it ever needs.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs it, passes on what it says, and gives its exit code.
pub(crate) fn run(pid: i32) -> u8 {
    // The same command line, without a limit.
    let own = std::env::args_os().skip(1);
    let arguments: Vec<OsString> = iter::once("--at-once".into()).chain(own).collect();
    match within(LIMIT, &arguments) {
        Ok(Some(code)) => code,
        Ok(None) => failed_to_audit(
            pid,
            &format!("what it shows cannot be read within {} s", LIMIT.as_secs()),
        ),
        Err(error) => failed_to_audit(pid, &error.to_string()),
    }
}

/// The exit code of this program with other arguments, once its output is passed on; none if it takes too long.
fn within(limit: Duration, arguments: &[OsString]) -> io::Result<Option<u8>> {
    let over = Instant::now() + limit;
    // Pipes of its own: whoever reads this one's output would wait for everybody who has it open.
    let mut child = Command::new("/proc/self/exe")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (tell, told) = mpsc::channel();
    let outputs: [(bool, Option<Box<dyn Read + Send>>); 2] = [
        (false, child.stdout.take().map(|pipe| Box::new(pipe) as _)),
        (true, child.stderr.take().map(|pipe| Box::new(pipe) as _)),
    ];
    for (is_error, pipe) in outputs {
        let (mut pipe, tell) = (pipe.ok_or(io::ErrorKind::BrokenPipe)?, tell.clone());
        thread::spawn(move || {
            let mut said = Vec::new();
            let read = pipe.read_to_end(&mut said).map(|_| (is_error, said));
            // Whoever asked may have lost patience.
            let _ = tell.send(read);
        });
    }
    for _ in 0..2 {
        let left = over.saturating_duration_since(Instant::now());
        let Ok(said) = told.recv_timeout(left) else {
            // It ends when it can, and is not waited for.
            child.kill()?;
            return Ok(None);
        };
        let (is_error, said) = said?;
        // Nobody to tell if the output is closed.
        let _ = match is_error {
            true => io::stderr().write_all(&said),
            false => io::stdout().write_all(&said),
        };
    }
    let code = child.wait()?.code();
    Ok(Some(
        code.and_then(|code| u8::try_from(code).ok())
            .unwrap_or(super::FAILED),
    ))
}
