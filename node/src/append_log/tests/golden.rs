//! The bytes of the append log, as the first release writes them. See [`crate::golden`].

use bytes::Bytes;

use super::super::file_header::{FileHeader, HeaderFault};
use super::super::record::Header;
use super::super::slots::{SlotError, Slots};
use super::super::{FileId, OpenError, Position, RecordInfo, RecordKind, footer};
use super::{FileStyle, config, dir, rng, sim};
use crate::append_log::AppendLog;
use crate::disk::{Disk, Durability, OpenMode, SimDisk};
use crate::golden::Golden;

fn file_header() -> FileHeader {
    let previous_end = Some(Position { file: FileId(6), offset: 0x1280 });
    FileHeader { id: FileId(7), generation: 0x1122_3344_5566_7788, previous_end }
}

async fn slot_bytes(disk: &SimDisk) -> Bytes {
    disk.create_dir(&dir()).await.unwrap();
    let (mut slots, _) = Slots::open(disk.process(), &dir().join("vote")).await.unwrap();
    slots.write(Bytes::from_static(b"a small fact")).await.unwrap();
    let file = disk.open(&dir().join("vote"), OpenMode::Existing).await.unwrap();
    file.read_at(0, 4096).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_bytes_of_headers_records_footers_and_slots_are_those_of_the_first_release() {
    let mut golden = Golden::default();
    golden.bytes("file_header", file_header().encode());
    golden.bytes("file_header.first", FileHeader { previous_end: None, ..file_header() }.encode());
    let header = Header {
        kind: RecordKind(1),
        payload_len: 70_000,
        payload_crc: 0xaabb_ccdd,
        offset: 0x2f80,
        generation: file_header().generation,
        synced: 0x1400,
        session: 3,
        tag: [0xa5; 64],
    };
    assert_eq!(Header::decode(&header.encode(), header.offset, header.generation), Some(header));
    golden.bytes("record", header.encode());
    golden.bytes("record.mark", Header { kind: RecordKind::MARK, payload_len: 0, tag: [0; 64], ..header }.encode());
    let record = |offset| RecordInfo {
        position: Position { file: FileId(7), offset },
        kind: RecordKind(2),
        payload_len: 77,
        tag: [0x5a; 64],
    };
    golden.bytes("footer", footer::encode(FileId(7), header.generation, 0x2000, &[record(1024), record(1280)]));
    golden.bytes("slot", slot_bytes(&sim(1)).await);
    golden.check("append_log");
}

#[tokio::test(start_paused = true)]
async fn a_file_or_slot_of_a_later_version_is_refused_by_name_and_left_as_it_is() {
    let mut later = file_header().encode();
    for copy in later.chunks_mut(512) {
        copy[8] = 2;
        let sum = crc32c::crc32c(&copy[..508]);
        copy[508..].copy_from_slice(&sum.to_le_bytes());
    }
    assert_eq!(FileHeader::decode(&later), Err(HeaderFault::Version(2)));
    let disk = sim(2);
    disk.create_dir(&dir()).await.unwrap();
    let path = dir().join("0000000000000007.log");
    let file = disk.open(&path, OpenMode::CreateNew).await.unwrap();
    file.write_at(0, vec![later.clone().into()], Durability::Synced).await.unwrap();
    let error = AppendLog::open(disk.process(), &dir(), config(FileStyle::Allocated), rng(1)).await.unwrap_err();
    assert!(matches!(error, OpenError::Version { version: 2, known: 1, .. }), "{error}");
    let told = error.to_string();
    assert!(told.ends_with("has format version 2, this program reads 1; run the version that wrote it"), "{told}");
    assert_eq!(file.read_at(0, later.len()).await.unwrap(), later);

    let disk = sim(3);
    let mut later = slot_bytes(&disk).await.to_vec();
    later[7] = b'2';
    let sum = crc32c::crc32c_append(crc32c::crc32c(&later[..28]), &later[32..]);
    later[28..32].copy_from_slice(&sum.to_le_bytes());
    let file = disk.open(&dir().join("vote"), OpenMode::Existing).await.unwrap();
    let later = Bytes::from(later.repeat(2));
    file.write_at(0, vec![later.clone()], Durability::Synced).await.unwrap();
    let error = Slots::open(disk.process(), &dir().join("vote")).await.unwrap_err();
    assert!(matches!(error, SlotError::Version { version: '2', .. }), "{error}");
    assert!(error.to_string().ends_with("this program reads 1; run the version that wrote it"), "{error}");
    assert_eq!(file.read_at(0, later.len()).await.unwrap(), later);
}
