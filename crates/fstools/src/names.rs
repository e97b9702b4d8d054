//! Names of files in JSON. A name is any bytes, a JSON string is text: bytes that are no UTF-8
//! become the half surrogates U+DC80 to U+DCFF, as Python's `os.fsdecode` does it. Python and
//! JavaScript keep them and send them back, so every file that is listed can be named.

use std::fmt::Write as _;

/// `name` as a JSON string, with its quotes.
pub(crate) fn quoted(name: &[u8]) -> String {
    let mut json = String::with_capacity(name.len() + 2);
    json.push('"');
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => json.extend(['\\', c]),
                // One event is one line, and one line is one event.
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    let _ = write!(json, "\\u{:04x}", u32::from(c));
                }
                c => json.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(json, "\\udc{byte:02x}");
        }
    }
    json.push('"');
    json
}

/// The bytes of a name that was a JSON string, whose half surrogates stand in the three bytes that
/// UTF-8 would have for them. `None` if it has others than those that stand for a byte.
pub(crate) fn unquoted(text: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Err(error) = std::str::from_utf8(rest) {
        let (valid, bad) = rest.split_at(error.valid_up_to());
        name.extend_from_slice(valid);
        let [0xed, second @ (0xb2 | 0xb3), third @ 0x80..=0xbf, after @ ..] = bad else {
            return None;
        };
        name.push(0x80 | ((second & 1) << 6) | (third & 0x3f));
        rest = after;
    }
    name.extend_from_slice(rest);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_names_are_one_line_of_text() {
        for (name, json) in [
            (&b"plain"[..], r#""plain""#),
            (b"a\"b\\c", r#""a\"b\\c""#),
            (b"a\nb\x1b[0m\x7f", r#""a\u000ab\u001b[0m\u007f""#),
            ("é☃🎉".as_bytes(), "\"é☃🎉\""),
            ("\u{2028}".as_bytes(), r#""\u2028""#),
            (b"\xff\xc3", r#""\udcff\udcc3""#),
        ] {
            assert_eq!(quoted(name), json);
        }
    }

    #[test]
    fn only_bytes_come_back_as_half_surrogates() {
        assert_eq!(unquoted(b"a\xed\xb2\x80\xed\xb3\xbf"), Some(b"a\x80\xff".to_vec()));
        // U+D800, a stray byte, and a cut one.
        for bad in [&b"\xed\xa0\x80"[..], b"\xff", b"a\xed\xb2"] {
            assert_eq!(unquoted(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn every_name_is_json_that_leads_back(
            name in proptest::collection::vec(1u8.., 0..200)
        ) {
            let path = quoted(&[b"/", &name[..]].concat());
            let command = format!(r#"{{"Stat":{{"path":{path}}}}}"#);
            let parsed = crate::command::Command::parse(command.as_bytes());
            let crate::command::Command::Stat { path } = parsed.expect(&command) else {
                panic!("{command}");
            };
            prop_assert_eq!(&path.as_os_str().as_encoded_bytes()[1..], &name[..]);
        }
    }
}
