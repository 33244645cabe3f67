//! Names and paths, which are bytes, as text that is safe on a terminal and can be pasted into a shell.

use std::fmt::Write;

/// The name as a shell would take it back: bare where that is safe, in quotes where it is not, with `$'\n'` for what
/// would break the line. As `ls` does on a terminal.
pub(crate) fn shell(name: &[u8]) -> String {
    let pieces = pieces(name);
    let printable = pieces.iter().all(|piece| matches!(piece, Piece::Text(_)));
    if printable && let Ok(text) = std::str::from_utf8(name) {
        if !text.is_empty() && !needs_quotes(text) {
            return text.to_owned();
        }
        if text.contains('\'') && !text.contains(['"', '$', '`', '\\', '!']) {
            return format!("\"{text}\"");
        }
    }
    in_single_quotes(&pieces)
}

/// The name in quotes, whatever it is: for messages, where it stands among words.
pub(crate) fn quoted(name: &[u8]) -> String {
    let text = shell(name);
    if text.starts_with(['\'', '"']) { text } else { format!("'{text}'") }
}

/// A stretch of a name.
enum Piece<'a> {
    /// Printable text.
    Text(&'a str),
    /// A byte to be written as an escape: of a control character, or of no character at all.
    Byte(u8),
}

/// The name as stretches of printable text and single bytes.
fn pieces(name: &[u8]) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    for chunk in name.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some((at, control)) = rest.char_indices().find(|(_, char)| is_unsafe(*char)) {
            let (text, tail) = rest.split_at(at);
            let (control, tail) = tail.split_at(control.len_utf8());
            pieces.extend((!text.is_empty()).then_some(Piece::Text(text)));
            pieces.extend(control.bytes().map(Piece::Byte));
            rest = tail;
        }
        pieces.extend((!rest.is_empty()).then_some(Piece::Text(rest)));
        pieces.extend(chunk.invalid().iter().copied().map(Piece::Byte));
    }
    pieces
}

/// Control characters, and those that reorder or hide the text around them.
pub(crate) fn is_unsafe(char: char) -> bool {
    let hides =
        matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    char.is_control() || hides
}

/// Whether a shell would read more into it than a word.
fn needs_quotes(text: &str) -> bool {
    let special = |char: char| char.is_whitespace() || "\"'$`\\!*?[]<>|&;(){}^=".contains(char);
    text.contains(special) || text.starts_with(['~', '#', '-'])
}

/// `'plain '$'\n'' plain'`.
fn in_single_quotes(pieces: &[Piece<'_>]) -> String {
    let mut text = String::from("'");
    let mut escaping = false;
    for piece in pieces {
        match piece {
            Piece::Text(plain) => {
                if escaping {
                    text.push_str("''");
                    escaping = false;
                }
                text.push_str(&plain.replace('\'', "'\\''"));
            }
            Piece::Byte(byte) => {
                if !escaping {
                    text.push_str("'$'");
                    escaping = true;
                }
                push_escape(&mut text, *byte);
            }
        }
    }
    text.push('\'');
    text
}

/// One byte within `$'…'`.
fn push_escape(text: &mut String, byte: u8) {
    match byte {
        b'\n' => text.push_str("\\n"),
        b'\t' => text.push_str("\\t"),
        b'\r' => text.push_str("\\r"),
        _ => write!(text, "\\{byte:03o}").expect("a String takes all that is written"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{quoted, shell};

    #[test]
    fn names_are_quoted_as_ls_does_on_a_terminal() {
        for (name, text) in [
            (b"plain.txt".as_slice(), "plain.txt"),
            (b"two words", "'two words'"),
            (b"it's", "\"it's\""),
            (b"it's $5", r"'it'\''s $5'"),
            (b"a\nb", r"'a'$'\n''b'"),
            (b"\x1b[31m", r"''$'\033''[31m'"),
            (b"\xff\xfe", r"''$'\377\376'"),
            ("für".as_bytes(), "für"),
            ("a\u{202e}b".as_bytes(), r"'a'$'\342\200\256''b'"),
            (b"", "''"),
        ] {
            assert_eq!(shell(name), text);
        }
        assert_eq!(quoted(b"plain"), "'plain'");
        assert_eq!(quoted(b"it's"), "\"it's\"");
    }

    proptest! {
        #[test]
        fn bash_reads_a_quoted_name_back_as_it_was(name in prop::collection::vec(1u8..=255, 1..24)) {
            let script = format!("LC_ALL=C printf %s {}", quoted(&name));
            let read = std::process::Command::new("bash").arg("-c").arg(script).output().unwrap();
            prop_assert_eq!(read.stdout, name);
        }

        #[test]
        fn no_quoted_name_holds_a_control_character(name in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(!shell(&name).chars().any(char::is_control));
        }
    }
}
