//! The table of inodes, without a file system.

use std::{fs::File, sync::atomic::Ordering::Relaxed};

use airlockfs_ipc::{Errno, NodeId, recycle::Shared};

use super::{
    Descriptor, Inodes, Place,
    dropped::Dropped,
    memory::PLACE,
    node::{Identity, Key, NONE},
    places::Location,
    table::{ROOT, Table},
};

fn identity(ino: u64, birth: i64) -> Identity {
    Identity {
        key: Key {
            ino,
            mount: 1,
            dev: 2,
            share: 0,
        },
        birth: (birth, 0),
        kind: libc::S_IFDIR,
    }
}

fn descriptor() -> Shared<Descriptor> {
    let file = File::open("/dev/null").unwrap();
    Shared::new(Descriptor::new(file.into(), true))
}

fn with_root() -> Table {
    let mut table = Table::new(usize::MAX, false);
    assert_eq!(table.insert(&identity(1, 0)), Ok(ROOT));
    table.pin(ROOT, descriptor());
    table
}

/// A node with one lookup, under a name.
fn add(table: &mut Table, ino: u64, parent: u32, name: &str) -> u32 {
    let index = table.insert(&identity(ino, 0)).unwrap();
    locate(table, index, parent, name);
    table.look_up(index);
    index
}

fn locate(table: &mut Table, index: u32, parent: u32, name: &str) {
    let name = name.as_bytes();
    let location = Location { parent, name };
    assert!(!table.must_ask(index, location, None));
    table.locate(index, location, false, &mut Dropped::default());
}

/// All of it, with a chain of directories of this length beneath the root. Their ids, the root's first.
fn chain(length: u64) -> (Inodes, Vec<NodeId>) {
    let inodes = Inodes::new(1000, usize::MAX, false);
    let mut ids = vec![inodes.add_synthetic_root(&identity(1, 0)).unwrap()];
    inodes.write().pin(ROOT, descriptor());
    for ino in 2..length + 2 {
        let id = {
            let mut table = inodes.write();
            let index = table.insert(&identity(ino, 0)).unwrap();
            table.look_up(index);
            table.id(index)
        };
        inodes.placed(
            id,
            Place {
                parent: ids[ids.len() - 1],
                name: b"d",
            },
        );
        ids.push(id);
    }
    (inodes, ids)
}

/// Where a node is.
fn parent(inodes: &Inodes, id: NodeId) -> Option<NodeId> {
    let table = inodes.read();
    let parent = table.node(table.index(id)?)?.parent;
    (parent != NONE).then(|| table.id(parent))
}

fn leave(table: &mut Table, index: u32, parent: u32, name: &str) {
    let name = name.as_bytes();
    table.leave(index, Location { parent, name }, &mut Dropped::default());
}

fn at(table: &Table, parent: u32, name: &str) -> Option<u32> {
    let name = name.as_bytes();
    table.at(Location { parent, name })
}

fn forget(table: &mut Table, index: u32, count: u64) {
    let id = table.id(index);
    table.forget(id, count, |_| true, &mut Dropped::default());
}

#[test]
fn the_root_is_node_1_and_stays() {
    let mut table = with_root();
    assert_eq!(table.id(ROOT), NodeId::ROOT);
    forget(&mut table, ROOT, u64::MAX);
    assert_eq!(table.index(NodeId::ROOT), Some(ROOT));
}

#[test]
fn an_id_is_never_used_again() {
    let mut table = with_root();
    let index = add(&mut table, 7, ROOT, "a");
    let id = table.id(index);
    forget(&mut table, index, 1);
    assert_eq!(table.index(id), None);
    let again = add(&mut table, 7, ROOT, "a");
    assert_eq!(again, index, "the place is used again");
    assert_ne!(table.id(again), id, "its id is another");
}

#[test]
fn made_up_ids_are_unknown() {
    let table = with_root();
    for made_up in [0, 2, 1 << 32, 1 << 32 | 1, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(table.index(NodeId(made_up)), None, "{made_up:#x}");
    }
}

#[test]
fn forgetting_too_much_is_forgetting_all() {
    let mut table = with_root();
    let index = add(&mut table, 7, ROOT, "a");
    table.look_up(index);
    forget(&mut table, index, 1);
    assert_eq!(table.len(), 2);
    forget(&mut table, index, u64::MAX);
    assert_eq!(table.len(), 1);
}

#[test]
fn a_directory_lives_as_long_as_what_is_in_it() {
    let mut table = with_root();
    let directory = add(&mut table, 2, ROOT, "d");
    let below = add(&mut table, 3, directory, "e");
    let file = add(&mut table, 4, below, "f");
    forget(&mut table, directory, 1);
    forget(&mut table, below, 1);
    assert_eq!(table.len(), 4);
    forget(&mut table, file, 1);
    assert_eq!(table.len(), 1);
    assert_eq!(at(&table, ROOT, "d"), None);
}

#[test]
fn an_inode_number_used_again_is_another_inode() {
    let mut table = with_root();
    let index = add(&mut table, 7, ROOT, "a");
    assert_eq!(table.find(&identity(7, 0)), Some(index));
    assert_eq!(table.find(&identity(7, 99)), None, "born later");
}

#[test]
fn a_name_stands_for_one_inode() {
    let mut table = with_root();
    let first = add(&mut table, 7, ROOT, "a");
    let second = add(&mut table, 8, ROOT, "a");
    assert_eq!(at(&table, ROOT, "a"), Some(second));
    assert_eq!(table.node(first).unwrap().parent, NONE);
    forget(&mut table, first, 1);
    assert_eq!(at(&table, ROOT, "a"), Some(second));
    // And a directory has one name, the one it was last seen under.
    locate(&mut table, second, ROOT, "b");
    assert_eq!(at(&table, ROOT, "a"), None);
    assert_eq!(at(&table, ROOT, "b"), Some(second));
    assert_eq!(table.node(ROOT).unwrap().children, 1);
}

#[test]
fn directories_moved_on_the_host_make_no_circle() {
    let (inodes, ids) = chain(3);
    let [root, outer, inner, innermost] = ids[..] else {
        panic!()
    };
    // Somebody moved `innermost` to the top, then `outer` into it; the guest finds the second move first.
    inodes.placed(
        outer,
        Place {
            parent: innermost,
            name: b"outer",
        },
    );
    assert_eq!(parent(&inodes, innermost), None);
    assert_eq!(parent(&inodes, outer), Some(innermost));
    // Nor does one that is shown in itself.
    inodes.placed(
        innermost,
        Place {
            parent: innermost,
            name: b"self",
        },
    );
    assert_eq!(parent(&inodes, innermost), None);
    inodes.forget([outer, inner, innermost, root].into_iter().map(|id| (id, 1)));
    assert_eq!(inodes.read().len(), 1, "nothing keeps itself alive");
}

#[test]
fn the_way_up_is_gone_for_directories_that_move_and_not_for_each_name() {
    const DEEP: u64 = 20_000;
    let steps = |inodes: &Inodes| inodes.steps.load(Relaxed);
    let (inodes, ids) = chain(DEEP);
    assert_eq!(steps(&inodes), 0, "a name in a directory costs none");
    let deepest = ids[ids.len() - 1];
    let new = {
        let mut table = inodes.write();
        [DEEP + 10, DEEP + 11].map(|ino| {
            let index = table.insert(&identity(ino, 0)).unwrap();
            table.look_up(index);
            table.id(index)
        })
    };
    inodes.placed(
        new[0],
        Place {
            parent: deepest,
            name: b"new",
        },
    );
    // What has nothing beneath it moves without.
    let (from, to) = (
        Place {
            parent: deepest,
            name: b"new",
        },
        Place {
            parent: ids[0],
            name: b"new",
        },
    );
    inodes.moved(new[0], from, to);
    assert_eq!((steps(&inodes), parent(&inodes, new[0])), (0, Some(ids[0])));
    // What has is looked for, a few steps under each lock.
    inodes.placed(
        new[1],
        Place {
            parent: new[0],
            name: b"beneath",
        },
    );
    inodes.moved(new[0], to, from);
    assert_eq!(parent(&inodes, new[0]), Some(deepest));
    assert_eq!(steps(&inodes), DEEP);
    assert_eq!(inodes.moves.try_lock().map(|_| ()).ok(), Some(()));
    // Nothing is held that would keep a directory known.
    inodes.forget(ids.iter().chain(&new).map(|id| (*id, 1)));
    assert_eq!(inodes.read().len(), 1);
}

#[test]
fn while_the_way_up_is_gone_its_lower_end_stays_where_it_is() {
    let (inodes, ids) = chain(3);
    let lineage = inodes.lineage(ids[1], ids[3]).unwrap();
    assert!(lineage.above);
    // It counts as one with something beneath it, so nobody moves it without asking.
    {
        let table = inodes.read();
        let (index, root) = (table.index(ids[3]).unwrap(), table.index(ids[0]).unwrap());
        let location = Location {
            parent: root,
            name: b"elsewhere",
        };
        assert!(table.must_ask(index, location, None));
    }
    drop(lineage);
    inodes.placed(
        ids[3],
        Place {
            parent: ids[0],
            name: b"elsewhere",
        },
    );
    assert_eq!(parent(&inodes, ids[3]), Some(ids[0]));
}

#[test]
fn memory_is_bounded_and_forgetting_makes_room() {
    let long = "x".repeat(255);
    let mut table = Table::new(100_000, false);
    assert_eq!(table.insert(&identity(1, 0)), Ok(ROOT));
    table.pin(ROOT, descriptor());
    let mut known = Vec::new();
    while table.room_for(None, long.as_bytes()).is_ok() {
        let ino = known.len() as u64 + 2;
        known.push(add(&mut table, ino, ROOT, &format!("{ino:x>255}")));
    }
    assert!(
        table.memory() <= 100_000 && table.memory() > 99_000,
        "{}",
        table.memory()
    );
    assert!(known.len() > 200 && known.len() < 300, "{}", known.len());
    // There is room for a few without long names, then for nothing.
    let short = std::iter::from_fn(|| table.insert(&identity(1_000_000, 0)).ok());
    assert!(short.count() < 4);
    assert_eq!(table.insert(&identity(7_000_000, 0)), Err(Errno::ENOMEM));
    // One that has a long name keeps it, or gets another.
    assert_eq!(table.room_for(Some(known[0]), long.as_bytes()), Ok(()));
    assert_eq!(table.room_for(Some(ROOT), long.as_bytes()), Err(Errno::ENOMEM));
    forget(&mut table, known[0], 1);
    assert_eq!(table.room_for(None, long.as_bytes()), Ok(()));
    add(&mut table, 8_000_000, ROOT, &long);
    assert_eq!(table.room_for(None, long.as_bytes()), Err(Errno::ENOMEM));
    // When all is forgotten at once, all comes back, and no id with it.
    let id = table.id(known[7]);
    table.clear(&mut Dropped::default());
    assert!(table.memory() < 1000, "{}", table.memory());
    let again: Vec<u32> = (0..10)
        .map(|n| add(&mut table, 50 + n, ROOT, &format!("{n}")))
        .collect();
    assert!(again.contains(&known[7]));
    assert_eq!(table.index(id), None);
}

#[test]
fn the_clock_spares_what_was_used_and_what_has_no_name() {
    let mut table = with_root();
    let nodes: Vec<u32> = (0..4)
        .map(|n| add(&mut table, 10 + n, ROOT, &format!("n{n}")))
        .collect();
    for &index in &nodes {
        assert!(table.heat(index, descriptor()));
        assert!(!table.heat(index, descriptor()), "hot already");
    }
    leave(&mut table, nodes[1], ROOT, "n1");
    let used = |table: &Table, index: u32| {
        let node = table.node(index).unwrap();
        node.referenced.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let is_hot = |table: &Table, index: u32| table.node(index).unwrap().descriptor.is_some();
    assert!(table.cool_one().is_some());
    used(&table, nodes[3]);
    assert!(table.cool_one().is_some());
    assert!(is_hot(&table, nodes[3]) && is_hot(&table, nodes[1]));
    assert!(!is_hot(&table, nodes[0]) && !is_hot(&table, nodes[2]));
    // When there is nothing else, they go too.
    assert!(table.cool_one().is_some() && table.cool_one().is_some() && table.cool_one().is_none());
    assert_eq!(table.hot.len(), 0);
    assert!(table.node(ROOT).unwrap().descriptor.is_some(), "never the root's");
}

#[test]
fn clearing_leaves_the_root() {
    let mut table = with_root();
    let directory = add(&mut table, 2, ROOT, "d");
    let file = add(&mut table, 3, directory, "f");
    table.heat(file, descriptor());
    let id = table.id(file);
    let mut dropped = Dropped::default();
    table.clear(&mut dropped);
    assert_eq!((table.len(), dropped.len(), table.hot.len()), (1, 1, 0));
    assert_eq!(table.index(id), None);
    assert_eq!(table.index(NodeId::ROOT), Some(ROOT));
    add(&mut table, 2, ROOT, "d");
    assert_eq!(
        at(&table, ROOT, "d").map(|index| table.id(index) == id),
        Some(false)
    );
}

#[test]
fn many_inodes_come_and_go() {
    let mut table = with_root();
    let mut known = Vec::new();
    for n in 0..20_000 {
        known.push(add(&mut table, 100 + n, ROOT, &n.to_string()));
    }
    for (n, &index) in (0..).zip(&known) {
        assert_eq!(table.find(&identity(100 + n, 0)), Some(index));
        assert_eq!(at(&table, ROOT, &n.to_string()), Some(index));
    }
    for index in known {
        forget(&mut table, index, 1);
    }
    assert_eq!((table.len(), table.node(ROOT).unwrap().children), (1, 0));
    assert_eq!(table.find(&identity(100, 0)), None);
    assert_eq!(table.insert(&identity(100, 0)).err(), None::<Errno>);
}

#[test]
fn another_kind_of_file_is_another_inode_though_number_and_birth_are_the_same() {
    let mut table = with_root();
    let file = Identity {
        kind: libc::S_IFREG,
        ..identity(2, 7)
    };
    let fifo = Identity {
        kind: libc::S_IFIFO,
        ..file
    };
    let first = table.insert(&file).unwrap();
    assert_eq!(table.find(&fifo), None);
    let second = table.insert(&fifo).unwrap();
    assert_eq!(
        (table.find(&file), table.find(&fifo)),
        (Some(first), Some(second))
    );
    assert_eq!(table.node(first).unwrap().identity(), file);
    assert_eq!(table.node(second).unwrap().identity(), fifo);
    // Nor while it is hot: where numbers are not to be relied on, the type is.
    table.heat(first, descriptor());
    assert_eq!(table.find(&fifo), Some(second));
}

#[test]
fn inode_numbers_in_a_row_and_in_steps_spread_over_the_table() {
    // A table has secrets of its own.
    for step in [1, 2, 8, 256, 4096, 1 << 32].repeat(50) {
        let table = Table::new(0, false);
        let mut places = vec![0; 1 << 12];
        for number in 0..1 << 12 {
            let hash = table.key_hash(&identity(1 + number * step, 0).key);
            places[hash as usize % (1 << 12)] += 1;
        }
        // Numbers drawn at random come to 7 or 8.
        let most = places.iter().max().unwrap();
        assert!(*most <= 16, "{most} in one place at steps of {step}");
    }
}

/// A regular file with one lookup, under a name.
fn add_file(table: &mut Table, ino: u64, parent: u32, name: &str) -> u32 {
    let kind = libc::S_IFREG;
    let index = table
        .insert(&Identity {
            kind,
            ..identity(ino, 0)
        })
        .unwrap();
    locate(table, index, parent, name);
    table.look_up(index);
    index
}

#[test]
fn a_file_is_where_any_of_its_names_is_and_keeps_their_directories() {
    let mut table = with_root();
    let (one, two) = (add(&mut table, 2, ROOT, "one"), add(&mut table, 3, ROOT, "two"));
    let file = add_file(&mut table, 10, one, "a");
    locate(&mut table, file, two, "b");
    locate(&mut table, file, ROOT, "c");
    for (parent, name) in [(one, "a"), (two, "b"), (ROOT, "c")] {
        assert_eq!(at(&table, parent, name), Some(file), "{name}");
    }
    // The directories are kept by what lies in them.
    forget(&mut table, one, 1);
    forget(&mut table, two, 1);
    assert_eq!(table.len(), 4);
    // Seen under an old name again, nothing changes.
    locate(&mut table, file, one, "a");
    assert!(table.node(file).unwrap().is_at(ROOT, b"c"));
    // The current name goes: it is where it was seen before.
    leave(&mut table, file, ROOT, "c");
    assert!(table.node(file).unwrap().is_at(two, b"b"));
    // Another file takes a name of its: it has one less, and its directory goes with it.
    let other = add_file(&mut table, 11, ROOT, "d");
    locate(&mut table, other, two, "b");
    assert_eq!(at(&table, two, "b"), Some(other));
    assert!(table.node(file).unwrap().is_at(one, b"a") && !table.has_alias(file));
    forget(&mut table, other, 1);
    assert_eq!(table.len(), 3, "the other file and its directory are gone");
    forget(&mut table, file, 1);
    assert_eq!(table.len(), 1);
}

#[test]
fn a_file_that_is_forgotten_leaves_none_of_its_names() {
    let mut table = with_root();
    let file = add_file(&mut table, 10, ROOT, "name0");
    for i in 1..100 {
        let dir = add(&mut table, 100 + i, ROOT, &format!("dir{i}"));
        locate(&mut table, file, dir, "name");
        forget(&mut table, dir, 1);
    }
    assert!(table.len() < 20, "few places are kept");
    forget(&mut table, file, 1);
    assert_eq!(table.len(), 1);
    assert_eq!(at(&table, ROOT, "name0"), None);
    assert!(!table.has_alias(file));
}

#[test]
fn what_has_another_number_now_is_found_by_it() {
    let mut table = with_root();
    let file = add_file(&mut table, 10, ROOT, "file");
    let id = table.id(file);
    let kind = libc::S_IFREG;
    let new = Identity {
        kind,
        ..identity(20, 0)
    };
    table.renumber(id, &new);
    assert_eq!(table.find(&new), Some(file));
    assert_eq!(
        table.find(&Identity {
            kind,
            ..identity(10, 0)
        }),
        None
    );
    let other = add_file(&mut table, 30, ROOT, "other");
    table.renumber(
        id,
        &Identity {
            kind,
            ..identity(30, 0)
        },
    );
    assert_eq!(table.find(&new), Some(file), "the other stands for that number");
    assert_eq!(
        table.find(&Identity {
            kind,
            ..identity(30, 0)
        }),
        Some(other)
    );
}

#[test]
fn what_is_forgotten_stays_for_a_while_where_that_is_asked_for() {
    let most = 4;
    let mut table = Table::new(most * 8 * PLACE, true);
    assert_eq!(table.insert(&identity(1, 0)), Ok(ROOT));
    table.pin(ROOT, descriptor());
    let directory = add(&mut table, 2, ROOT, "d");
    let ids: Vec<NodeId> = (3..9)
        .map(|ino| {
            let index = add(&mut table, ino, directory, &ino.to_string());
            table.heat(index, descriptor());
            forget(&mut table, index, 1);
            table.id(index)
        })
        .collect();
    let (gone, kept) = ids.split_at(2);
    assert!(gone.iter().all(|id| table.index(*id).is_none()), "the earliest");
    assert!(kept.iter().all(|id| table.index(*id).is_some()));
    assert_eq!(table.hot.len(), 0, "descriptors are not kept");
    // One that is looked up again has the same id, and is forgotten like any other.
    let index = table.index(kept[0]).unwrap();
    assert_eq!(table.find(&identity(5, 0)), Some(index));
    table.look_up(index);
    forget(&mut table, index, 1);
    // One that has lost its name cannot be found again.
    let index = table.index(kept[3]).unwrap();
    table.look_up(index);
    leave(&mut table, index, directory, "8");
    table.heat(index, descriptor());
    forget(&mut table, index, 1);
    assert_eq!(table.hot.len(), 0, "a removed file's room is not kept");
    forget(&mut table, directory, 1);
    table.clear(&mut Dropped::default());
    assert_eq!(table.len(), 1);
}

#[test]
fn what_was_forgotten_makes_room() {
    let inodes = Inodes::new(1000, 1600 * PLACE, true);
    let root = inodes.add_synthetic_root(&identity(1, 0)).unwrap();
    inodes.write().pin(ROOT, descriptor());
    let look_up = |ino: u64| {
        inodes.with_room(|| {
            let mut table = inodes.write();
            table.room_for(None, b"x")?;
            let index = table.insert(&identity(ino, 0))?;
            table.look_up(index);
            Ok(table.id(index))
        })
    };
    let mut ino = 1;
    let mut fill = || {
        let mut ids = Vec::new();
        loop {
            ino += 1;
            match look_up(ino) {
                Ok(id) => ids.push(id),
                Err(error) => return (ids, error),
            }
        }
    };
    let (first, error) = fill();
    assert_eq!(error, Errno::ENOMEM);
    for (at, id) in first.iter().enumerate() {
        let name = at.to_string();
        inodes.placed(
            *id,
            Place {
                parent: root,
                name: name.as_bytes(),
            },
        );
    }
    inodes.forget(first.iter().map(|id| (*id, 1)));
    let known = first
        .iter()
        .filter(|id| inodes.read().index(**id).is_some())
        .count();
    assert_eq!(known, 200, "an eighth");
    let (second, error) = fill();
    assert_eq!(error, Errno::ENOMEM);
    assert_eq!(second.len(), first.len(), "as many as before");
}
