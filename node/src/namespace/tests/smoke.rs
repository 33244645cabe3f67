//! One walk through everything.

use wire::namespace::{Content, Cookie, InlineData, Inode, ListWant, Op, Query, QueryAnswer, SetId, SetTime, WalkEnd};

use super::harness::{Client, Machine, extent, name, slice};

#[test]
fn files_are_made_listed_walked_read_and_removed() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let dir = client.mkdir(&mut machine, Inode::ROOT, "dir");
    let small = client.inline_file(&mut machine, dir, "small", b"hello");
    let large = client.touch(&mut machine, dir, "large");
    let extents = vec![extent(0, slice(1, 100)), extent(200, slice(2, 50))];
    let (modified, set_id) = (SetTime::Now, SetId::Clear);
    client.ok(&mut machine, Op::WriteExtents { inode: large, extents, if_version: None, modified, set_id });

    assert_eq!(machine.names(dir), ["small", "large"]);
    assert_eq!(machine.content(small), Content::Inline(InlineData::new(b"hello".to_vec())));
    assert_eq!(machine.attr(large).size, 250);
    assert_eq!(machine.attr(large).allocated, 150);
    assert_eq!(machine.extents(large).len(), 2);
    assert_eq!(machine.usage().bytes, 155);
    let page = machine.page(dir, Cookie(0), 1, ListWant::Attrs);
    assert_eq!((page.entries.len(), page.end), (1, false));
    let Ok(QueryAnswer::Walked(walked)) =
        machine.query(Query::Walk { from: Inode::ROOT, path: vec![name("dir"), name("small")] })
    else {
        panic!("no walk");
    };
    assert_eq!(walked.end, WalkEnd::Reached);
    assert_eq!(walked.steps.last().unwrap().inode, small);
    client.ok(&mut machine, Op::Unlink { dir, name: name("large") });
    assert_eq!(machine.names(dir), ["small"]);
}
