//! Requests that nobody waits for any more: what of them reaches the guest, and what becomes of late replies.

use airlockfs_ipc::ring::BULK_BUFFERS;

use super::*;

const OPENDIR: u32 = 27;
const READDIR: u32 = 28;

impl Rig {
    /// Has the worker take all that waits for it, and answer nothing.
    fn take_all(&mut self) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        while let Some((ticket, _)) = self.worker.take(&mut self.message).unwrap() {
            tickets.push(ticket);
        }
        tickets
    }

    fn bulk_buffers(&mut self) -> usize {
        let all: Vec<_> = std::iter::from_fn(|| self.group.lane.ring.take_bulk()).collect();
        let count = all.len();
        all.into_iter()
            .for_each(|bulk| self.group.lane.ring.give_bulk(bulk));
        count
    }
}

#[test]
fn a_ring_that_is_given_up_gets_eio_and_what_comes_late_goes_back_to_the_worker() {
    let mut rig = Rig::with_file(false);
    rig.send(LOOKUP, 3, b"name\0", 128);
    rig.send(OPENDIR, 4, &[0; 8], 16);
    let mut body = HANDLE.0.to_ne_bytes().to_vec();
    body.extend([0; 8]);
    body.extend(1024u32.to_ne_bytes());
    body.extend([0; 20]);
    rig.send(READDIR, 5, &body, 1024);
    rig.run();
    let mut tickets = rig.take_all().into_iter();
    assert_eq!(rig.group.must_finish(0), 3);
    rig.group.give_up(0, &rig.vrings);
    let answers: Vec<_> = rig.run_all().into_iter().flatten().collect();
    let mut errors: Vec<_> = answers
        .iter()
        .map(|answer| (answer.unique, answer.error))
        .collect();
    errors.sort_unstable();
    assert_eq!(errors, [3, 4, 5].map(|unique| (unique, libc::EIO)));
    assert_eq!(rig.group.must_finish(0), 0, "nobody waits for them");
    assert_eq!(
        rig.group.lane.ring.in_flight(),
        3,
        "the slots are the worker's still"
    );
    assert_eq!(rig.bulk_buffers(), BULK_BUFFERS - 1);
    // Others are served meanwhile.
    rig.send(LOOKUP, 6, b"name\0", 128);
    rig.run();
    assert_eq!(rig.serve(|_| entry()), 1);
    assert_eq!(rig.run_one().error, 0);
    // Now the calls return.
    let (lookup, opendir) = (tickets.next().unwrap(), tickets.next().unwrap());
    rig.worker.answer(lookup, &entry());
    rig.worker.answer(opendir, &Reply::Opened { handle: Handle(77) });
    let listed = airlockfs_ipc::message::DirEntry {
        ino: 9,
        next: 1,
        kind: libc::DT_REG,
        name: airlockfs_ipc::Bytes(b"listed"),
        entry: Some(Entry {
            node: NodeId(9),
            attr: Attr::default(),
        }),
    };
    let ticket = tickets.next().unwrap();
    let mut room = [0; airlockfs_ipc::DIR_ENTRY_MAX];
    let length = listed.encode(&mut room).unwrap();
    let bulk = rig.worker.bulk(&ticket).unwrap();
    bulk.copy_from_slice(0, &room[..length]);
    rig.worker.answer(ticket, &Reply::Entries { size: length as u32 });
    assert!(rig.run_all().is_empty(), "nothing of it reaches the guest");
    let mut given_back = Vec::new();
    rig.serve(|request| {
        given_back.push(match *request {
            Request::Forget(records) => format!("{:?}", records.0),
            ref other => format!("{other:?}"),
        });
        Reply::Done
    });
    rig.run();
    let record = |node: u64| [node.to_le_bytes(), 1u64.to_le_bytes()].concat();
    let forgotten = format!("{:?}", [record(2), record(9)].concat());
    let released = format!("{:?}", Request::ReleaseDir { handle: Handle(77) });
    given_back.sort();
    let mut expected = [forgotten, released];
    expected.sort();
    assert_eq!(given_back, expected);
    assert_eq!(
        (rig.group.lane.ring.in_flight(), rig.bulk_buffers()),
        (0, BULK_BUFFERS)
    );
    assert_eq!(rig.failure(), None);
}

#[test]
fn nothing_is_written_for_a_vmm_that_is_gone() {
    let mut rig = Rig::with_file(false);
    rig.send(LOOKUP, 3, b"name\0", 128);
    rig.run();
    let ticket = rig.take_all().remove(0);
    rig.group.discard();
    rig.group.give_up_all();
    assert_eq!(rig.group.must_finish(0), 0);
    rig.worker
        .answer(ticket, &Reply::Error(airlockfs_ipc::Errno::ESTALE));
    assert!(rig.run_all().is_empty());
    assert_eq!((rig.group.lane.ring.in_flight(), rig.failure()), (0, None));
}

#[test]
fn a_data_threads_late_answer_is_dropped() {
    let mut rig = Rig::with_file(true);
    rig.send(FSYNC, 3, &[0; 16], 16);
    let mut late = super::super::Request::empty();
    late.unique = 7;
    late.reply = Some(Reply::Done);
    rig.group.jobs.enter(&mut late);
    rig.group.give_up(0, &rig.vrings);
    assert_eq!(rig.group.jobs.len(), 0);
    let memory = rig.memory.memory();
    let next = local::finished(late, &mut rig.group, &memory);
    assert!(matches!(next, Next::Away), "{next:?}");
    let answers = rig.run_all();
    assert!(
        !answers
            .iter()
            .flatten()
            .any(|answer| answer.unique == 7 && answer.error == 0)
    );
}
