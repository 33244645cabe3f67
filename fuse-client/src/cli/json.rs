//! Names and attributes in JSON.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use wire::namespace::{Attr, FileType};

use super::{
    owners::Owners,
    text::{
        date::json_date,
        mode::{device_numbers, type_word},
    },
};

/// Adds all attributes of an inode.
pub(crate) fn insert_attr(object: &mut Map<String, Value>, attr: &Attr, owners: &Owners) {
    let mut insert = |key: &str, value: Value| drop(object.insert(key.to_owned(), value));
    insert("type", json!(type_word(attr.file_type)));
    insert("inode", json!(attr.inode.0));
    insert("mode", json!(format!("{:04o}", attr.mode.bits())));
    insert("links", json!(attr.links));
    insert("uid", json!(attr.uid));
    insert("gid", json!(attr.gid));
    insert("owner", json!(owners.user(attr.uid)));
    insert("group", json!(owners.group(attr.gid)));
    insert("size", json!(attr.size));
    insert("allocated", json!(attr.allocated));
    if matches!(attr.file_type, FileType::CharDevice | FileType::BlockDevice) {
        let (major, minor) = device_numbers(attr.device);
        insert("device", json!({"major": major, "minor": minor}));
    }
    insert("accessed", json!(json_date(attr.accessed)));
    insert("modified", json!(json_date(attr.modified)));
    insert("changed", json!(json_date(attr.changed)));
    insert("born", json!(json_date(attr.born)));
    insert("data_version", json!(attr.data_version));
}

/// Adds `key` if the bytes are UTF-8, else `key_base64`.
pub(crate) fn insert_bytes(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(key.to_owned(), json!(text)),
        Err(_) => object.insert(format!("{key}_base64"), json!(STANDARD.encode(bytes))),
    };
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::insert_bytes;

    #[test]
    fn a_name_is_text_where_it_is_utf_8_and_base64_where_it_is_not() {
        let mut object = Map::new();
        insert_bytes(&mut object, "name", "für".as_bytes());
        insert_bytes(&mut object, "target", b"\xff\x00");
        assert_eq!(serde_json::Value::Object(object), json!({"name": "für", "target_base64": "/wA="}));
    }
}
