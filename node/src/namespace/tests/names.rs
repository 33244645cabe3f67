//! Names: entries, links, moves, lists.

use wire::namespace::{
    Cookie, InlineData, Inode, ListWant, Mode, Name, NewGroup, NewKind, Op, OpError, OpOutcome, Query, QueryAnswer,
    RenameMode, Replace, SetAttr, WalkEnd, Walked, Xattr, XattrMode, XattrName,
};

use super::harness::{CLIENT, Client, Machine, name, new_inode};
use crate::namespace::{CommandBody, LogIndex, XATTRS_MAX, orphans};

const ROOT: Inode = Inode::ROOT;

fn setup() -> (Machine, Client) {
    let mut machine = Machine::new();
    let client = Client::open(&mut machine, 1);
    (machine, client)
}

fn rename(from: (Inode, &str), to: (Inode, &str), mode: RenameMode) -> Op {
    Op::Rename { from_dir: from.0, from_name: name(from.1), to_dir: to.0, to_name: name(to.1), mode }
}

fn walk(machine: &Machine, path: &[&str]) -> Walked {
    let path = path.iter().map(|text| name(text)).collect();
    match machine.query(Query::Walk { from: ROOT, path }) {
        Ok(QueryAnswer::Walked(walked)) => walked,
        other => panic!("{other:?}"),
    }
}

fn error(outcome: &OpOutcome) -> OpError {
    outcome.unwrap_err()
}

#[test]
fn a_rename_refuses_what_rename_2_refuses() {
    let (mut machine, mut client) = setup();
    let full = client.mkdir(&mut machine, ROOT, "full");
    let inner = client.mkdir(&mut machine, full, "inner");
    client.mkdir(&mut machine, ROOT, "empty");
    client.touch(&mut machine, ROOT, "file");
    let before = machine.rows.pairs();
    let mut refused = |machine: &mut Machine, from, to, mode| error(&client.run(machine, rename(from, to, mode)));
    let replace = RenameMode::Replace;
    assert_eq!(refused(&mut machine, (ROOT, "none"), (ROOT, "x"), replace), OpError::NotFound);
    assert_eq!(refused(&mut machine, (ROOT, "full"), (full, "x"), replace), OpError::Invalid);
    assert_eq!(refused(&mut machine, (ROOT, "full"), (inner, "x"), replace), OpError::Invalid);
    assert_eq!(refused(&mut machine, (full, "inner"), (ROOT, "full"), RenameMode::Exchange), OpError::Invalid);
    assert_eq!(refused(&mut machine, (ROOT, "empty"), (ROOT, "full"), replace), OpError::NotEmpty);
    assert_eq!(refused(&mut machine, (ROOT, "empty"), (ROOT, "file"), replace), OpError::NotDirectory);
    assert_eq!(refused(&mut machine, (ROOT, "file"), (ROOT, "empty"), replace), OpError::IsDirectory);
    assert_eq!(refused(&mut machine, (ROOT, "file"), (ROOT, "full"), RenameMode::NoReplace), OpError::Exists);
    assert_eq!(refused(&mut machine, (ROOT, "file"), (ROOT, "x"), RenameMode::Exchange), OpError::NotFound);
    // But for the window of the session, nothing has changed.
    let changed: Vec<_> = machine.rows.pairs().into_iter().filter(|pair| !before.contains(pair)).collect();
    assert!(changed.iter().all(|(key, _)| [0x20, 0x23].contains(&key[0])), "{changed:?}");
}

#[test]
fn a_directory_moves_over_an_empty_one_and_takes_its_links_along() {
    let (mut machine, mut client) = setup();
    let (a, b) = (client.mkdir(&mut machine, ROOT, "a"), client.mkdir(&mut machine, ROOT, "b"));
    let moved = client.mkdir(&mut machine, a, "moved");
    let under = client.mkdir(&mut machine, b, "name");
    client.ok(&mut machine, rename((a, "moved"), (b, "name"), RenameMode::Replace));
    assert_eq!((machine.attr(a).links, machine.attr(b).links, machine.attr(under).links), (2, 3, 0));
    assert_eq!((machine.names(a).len(), machine.list(b)[0].inode), (0, moved));
    // The one that went takes no entries any more, and what was moved knows where it is.
    let new = new_inode(client.inode(&mut machine), NewKind::Fifo);
    let op = Op::Create { dir: under, name: name("x"), new, replace: Replace::No };
    assert_eq!(client.run(&mut machine, op), Err(OpError::NotFound));
    assert_eq!(client.run(&mut machine, rename((ROOT, "b"), (moved, "x"), RenameMode::Replace)), Err(OpError::Invalid));
    client.ok(&mut machine, rename((ROOT, "a"), (moved, "x"), RenameMode::Replace));
}

#[test]
fn two_names_of_one_file_stay_when_one_is_renamed_to_the_other() {
    let (mut machine, mut client) = setup();
    let file = client.touch(&mut machine, ROOT, "a");
    client.ok(&mut machine, Op::Link { inode: file, dir: ROOT, name: name("b"), replace: Replace::No });
    let before = machine.attr(ROOT);
    client.ok(&mut machine, rename((ROOT, "a"), (ROOT, "b"), RenameMode::Replace));
    client.ok(&mut machine, rename((ROOT, "a"), (ROOT, "a"), RenameMode::Replace));
    assert_eq!((machine.names(ROOT), machine.attr(file).links), (vec!["a".to_owned(), "b".to_owned()], 2));
    assert_eq!(machine.attr(ROOT), before);
}

#[test]
fn an_exchange_swaps_names_across_directories_and_types() {
    let (mut machine, mut client) = setup();
    let (a, b) = (client.mkdir(&mut machine, ROOT, "a"), client.mkdir(&mut machine, ROOT, "b"));
    let (dir, file) = (client.mkdir(&mut machine, a, "x"), client.touch(&mut machine, b, "y"));
    client.ok(&mut machine, rename((a, "x"), (b, "y"), RenameMode::Exchange));
    assert_eq!((machine.list(a)[0].inode, machine.list(b)[0].inode), (file, dir));
    assert_eq!((machine.attr(a).links, machine.attr(b).links), (2, 3));
    assert_eq!((machine.attr(a).size, machine.attr(b).size), (1, 1));
}

#[test]
fn a_listing_under_way_meets_every_name_that_stays_once() {
    let (mut machine, mut client) = setup();
    for at in 0..10 {
        client.touch(&mut machine, ROOT, &format!("stay{at}"));
        client.touch(&mut machine, ROOT, &format!("go{at}"));
    }
    let (mut seen, mut after) = (Vec::new(), Cookie(0));
    for round in 0.. {
        let page = machine.page(ROOT, after, 3, ListWant::Names);
        seen.extend(page.entries.iter().map(|entry| entry.name.to_string()));
        after = page.entries.last().map_or(after, |entry| entry.cookie);
        if page.end {
            break;
        }
        if round < 10 {
            client.ok(&mut machine, Op::Unlink { dir: ROOT, name: name(&format!("go{}", 9 - round)) });
            // A name whose file is replaced stays where it is.
            client.touch(&mut machine, ROOT, &format!("new{round}"));
            client.ok(
                &mut machine,
                rename((ROOT, &format!("new{round}")), (ROOT, &format!("stay{round}")), RenameMode::Replace),
            );
        }
    }
    for at in 0..10 {
        assert_eq!(seen.iter().filter(|seen| **seen == format!("stay{at}")).count(), 1, "{seen:?}");
    }
}

#[test]
fn a_position_is_never_given_to_another_name() {
    let (mut machine, mut client) = setup();
    let mut positions = Vec::new();
    for _ in 0..5 {
        client.touch(&mut machine, ROOT, "name");
        positions.push(machine.list(ROOT)[0].cookie);
        client.ok(&mut machine, Op::Unlink { dir: ROOT, name: name("name") });
    }
    assert!(positions.windows(2).all(|pair| pair[0] < pair[1]), "{positions:?}");
}

#[test]
fn a_page_ends_at_a_mebibyte_and_the_next_goes_on() {
    let (mut machine, mut client) = setup();
    for group in 0..3 {
        let ops = (0..200).map(|at| {
            let data = InlineData::new(vec![at as u8; 4096]);
            let new = new_inode(client.inode(&mut machine), NewKind::File(wire::namespace::NewContent::Inline(data)));
            Op::Create { dir: ROOT, name: name(&format!("{group}-{at}")), new, replace: Replace::No }
        });
        let ops = ops.collect();
        client.run_all(&mut machine, ops);
    }
    let first = machine.page(ROOT, Cookie(0), u32::MAX, ListWant::Contents);
    assert!(!first.end && (200..260).contains(&first.entries.len()), "{}", first.entries.len());
    assert!(postcard::to_stdvec(&first).unwrap().len() <= 1 << 20);
    let attrs = machine.page(ROOT, Cookie(0), u32::MAX, ListWant::Attrs);
    assert_eq!((attrs.end, attrs.entries.len()), (true, 600));
    assert_eq!(machine.list(ROOT).len(), 600);
    for entry in attrs.entries {
        assert_eq!(entry.attr, Some(machine.attr(entry.inode)));
    }
    let exactly = machine.page(ROOT, Cookie(0), 600, ListWant::Names);
    let beyond = machine.page(ROOT, exactly.entries.last().unwrap().cookie, 10, ListWant::Names);
    assert_eq!((exactly.entries.len(), beyond.entries.len(), beyond.end), (600, 0, true));
}

#[test]
fn entries_far_apart_and_close_together_tell_the_same() {
    let (mut machine, mut client) = setup();
    let dir = client.mkdir(&mut machine, ROOT, "dir");
    // Numbers near and far: 1 of 3, then 1 of 40.
    for at in 0..400_u32 {
        let here = if at < 100 { at.is_multiple_of(3) } else { at.is_multiple_of(40) };
        let file = client.inline_file(&mut machine, if here { dir } else { ROOT }, &at.to_string(), &at.to_be_bytes());
        if here && at.is_multiple_of(15) {
            let xattr = Xattr { name: XattrName::new(*b"user.at").unwrap(), value: at.to_be_bytes().to_vec() };
            client.ok(&mut machine, Op::SetXattr { inode: file, xattr, mode: XattrMode::Set });
        }
    }
    let entries = machine.list(dir);
    assert_eq!(entries.len(), 34 + 7);
    for entry in entries {
        let at: u32 = entry.name.to_string().parse().unwrap();
        assert_eq!(entry.attr, Some(machine.attr(entry.inode)));
        assert_eq!(entry.content, Some(machine.content(entry.inode)));
        let values: Vec<_> = entry.xattrs.iter().map(|xattr| xattr.value.clone()).collect();
        assert_eq!(values, if at.is_multiple_of(15) { vec![at.to_be_bytes().to_vec()] } else { Vec::new() });
    }
}

#[test]
fn a_set_group_id_directory_gives_its_group_and_to_directories_the_bit() {
    let (mut machine, mut client) = setup();
    let dir = client.mkdir(&mut machine, ROOT, "dir");
    let set = SetAttr { mode: Some(Mode::new(0o2775)), gid: Some(77), ..SetAttr::default() };
    client.ok(&mut machine, Op::SetAttr { inode: dir, set });
    let sub = client.mkdir(&mut machine, dir, "sub");
    let file = client.touch(&mut machine, dir, "file");
    let mut new = new_inode(client.inode(&mut machine), NewKind::Directory);
    new.gid = NewGroup::Exactly(5);
    let restored = new.inode;
    client.ok(&mut machine, Op::Create { dir, name: name("restored"), new, replace: Replace::No });
    let told = |inode| (machine.attr(inode).gid, machine.attr(inode).mode.bits());
    assert_eq!((told(sub), told(file), told(restored)), ((77, 0o2644), (77, 0o644), (5, 0o644)));
}

#[test]
fn a_walk_says_where_it_ended_and_why() {
    let (mut machine, mut client) = setup();
    let dir = client.mkdir(&mut machine, ROOT, "dir");
    let file = client.touch(&mut machine, dir, "file");
    let target = InlineData::new(b"dir/file".to_vec());
    let link = client.create(&mut machine, ROOT, "link", NewKind::Symlink(target.clone()));
    let told = |path: &[&str]| {
        let walked = walk(&machine, path);
        (walked.steps.iter().map(|attr| attr.inode).collect::<Vec<_>>(), walked.end)
    };
    assert_eq!(told(&[]), (vec![ROOT], WalkEnd::Reached));
    assert_eq!(told(&["dir", "file"]), (vec![ROOT, dir, file], WalkEnd::Reached));
    assert_eq!(told(&["dir", "none", "x"]), (vec![ROOT, dir], WalkEnd::Missing));
    assert_eq!(told(&["dir", "file", "x"]), (vec![ROOT, dir, file], WalkEnd::NotDirectory));
    assert_eq!(told(&["link", "x"]), (vec![ROOT, link], WalkEnd::Symlink(target.clone())));
    assert_eq!(told(&["link"]), (vec![ROOT, link], WalkEnd::Symlink(target)));
    assert_eq!(machine.attr(link).size, 8);
    assert_eq!(machine.query(Query::Walk { from: Inode(99), path: Vec::new() }), Err(OpError::StaleInode));
}

#[test]
fn names_are_bytes_and_one_is_no_beginning_of_another() {
    let (mut machine, mut client) = setup();
    let strange: Vec<Vec<u8>> = vec![vec![0xff; 255], vec![1], b"a".to_vec(), b"ab".to_vec(), b"a\xff".to_vec()];
    for bytes in &strange {
        let new = new_inode(client.inode(&mut machine), NewKind::Fifo);
        let name = Name::new(bytes.clone()).unwrap();
        client.ok(&mut machine, Op::Create { dir: ROOT, name, new, replace: Replace::No });
    }
    let listed: Vec<Vec<u8>> = machine.list(ROOT).iter().map(|entry| entry.name.as_bytes().to_vec()).collect();
    assert_eq!(listed, strange);
}

#[test]
fn the_last_name_gone_leaves_an_orphan_that_works_until_it_is_reclaimed() {
    let (mut machine, mut client) = setup();
    let file = client.inline_file(&mut machine, ROOT, "file", b"bytes");
    client.ok(&mut machine, Op::Link { inode: file, dir: ROOT, name: name("other"), replace: Replace::No });
    let dir = client.mkdir(&mut machine, ROOT, "dir");
    client.ok(&mut machine, Op::Unlink { dir: ROOT, name: name("file") });
    assert_eq!(orphans(&machine.rows, LogIndex(u64::MAX), 9).unwrap(), []);
    client.ok(&mut machine, Op::Unlink { dir: ROOT, name: name("other") });
    let index = LogIndex(machine.index);
    client.ok(&mut machine, Op::RemoveDirectory { dir: ROOT, name: name("dir") });
    assert_eq!(orphans(&machine.rows, index, 9).unwrap(), [file]);
    assert_eq!(orphans(&machine.rows, LogIndex(u64::MAX), 9).unwrap(), [file, dir]);
    assert_eq!(crate::namespace::orphans_index(&machine.rows).unwrap().0, machine.index);
    let set = SetAttr { size: Some(2), ..SetAttr::default() };
    client.ok(&mut machine, Op::SetAttr { inode: file, set });
    assert_eq!((machine.attr(file).links, machine.attr(file).size), (0, 2));
    let link = Op::Link { inode: file, dir: ROOT, name: name("back"), replace: Replace::No };
    assert_eq!(client.run(&mut machine, link), Err(OpError::NotFound));
    machine.propose(CommandBody::ReclaimOrphans { inodes: vec![ROOT, file, dir, Inode(99)] });
    assert_eq!(machine.query(Query::Attr { inode: file }), Err(OpError::StaleInode));
    assert_eq!(machine.usage(), wire::namespace::Usage { inodes: 1, bytes: 0 });
}

#[test]
fn an_unnamed_inode_is_linked_only_by_its_own_session() {
    let (mut machine, mut client) = setup();
    let mut other = Client::open(&mut machine, 2);
    let file = client.inode(&mut machine);
    client.ok(&mut machine, Op::CreateUnnamed { new: new_inode(file, NewKind::Fifo) });
    let link = |text| Op::Link { inode: file, dir: ROOT, name: name(text), replace: Replace::File };
    assert_eq!(other.run(&mut machine, link("a")), Err(OpError::NotFound));
    let old = other.touch(&mut machine, ROOT, "a");
    client.ok(&mut machine, link("a"));
    other.ok(&mut machine, link("b"));
    assert_eq!((machine.attr(file).links, machine.attr(old).links), (2, 0));
    // Named, it survives its session.
    machine.propose(CommandBody::CloseSession { session: client.session });
    assert_eq!(machine.names(ROOT), ["a", "b"]);
    assert_eq!(orphans(&machine.rows, LogIndex(u64::MAX), 9).unwrap(), [old]);
    let new = new_inode(other.inode(&mut machine), NewKind::Directory);
    assert_eq!(other.run(&mut machine, Op::CreateUnnamed { new }), Err(OpError::Invalid));
}

#[test]
fn extended_attributes_are_bounded_in_number_and_length() {
    let (mut machine, mut client) = setup();
    let file = client.touch(&mut machine, ROOT, "file");
    let xattr = |at: usize, len| Xattr { name: XattrName::new(format!("user.{at}")).unwrap(), value: vec![0; len] };
    let mut set =
        |machine: &mut Machine, xattr, mode| client.run(machine, Op::SetXattr { inode: file, xattr, mode }).err();
    assert_eq!(set(&mut machine, xattr(0, 65_537), XattrMode::Set), Some(OpError::TooLarge));
    assert_eq!(set(&mut machine, xattr(0, 65_536), XattrMode::Create), None);
    assert_eq!(set(&mut machine, xattr(0, 1), XattrMode::Create), Some(OpError::Exists));
    assert_eq!(set(&mut machine, xattr(1, 1), XattrMode::Replace), Some(OpError::NoXattr));
    assert_eq!(set(&mut machine, xattr(1, 65_530), XattrMode::Set), Some(OpError::TooManyXattrs));
    for at in 1..XATTRS_MAX {
        assert_eq!(set(&mut machine, xattr(at, 9), XattrMode::Set), None);
    }
    assert_eq!(set(&mut machine, xattr(XATTRS_MAX, 9), XattrMode::Set), Some(OpError::TooManyXattrs));
    assert_eq!(set(&mut machine, xattr(5, 8), XattrMode::Replace), None);
}

#[test]
fn a_batch_builds_on_itself_and_a_failure_in_it_undoes_only_itself() {
    let (mut machine, mut client) = setup();
    let (dir, file) = (client.inode(&mut machine), client.inode(&mut machine));
    let create = |parent, text, inode, kind| {
        let new = new_inode(inode, kind);
        Op::Create { dir: parent, name: name(text), new, replace: Replace::No }
    };
    let ops = vec![
        create(ROOT, "dir", dir, NewKind::Directory),
        create(dir, "file", file, NewKind::Fifo),
        create(dir, "file", file, NewKind::Fifo),
        rename((dir, "file"), (ROOT, "moved"), RenameMode::Replace),
        Op::RemoveDirectory { dir: ROOT, name: name("dir") },
    ];
    let batch = client.batch(ops);
    let outcomes = super::harness::outcomes(machine.propose(CommandBody::Batch { client: CLIENT, batch }));
    let errors: Vec<Option<OpError>> = outcomes.iter().map(|outcome| outcome.err()).collect();
    assert_eq!(errors, [None, None, Some(OpError::Exists), None, None]);
    assert_eq!(machine.names(ROOT), ["moved"]);
}
