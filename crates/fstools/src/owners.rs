//! Names of users and groups, by the files of the sandbox itself.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::OFlags;

use crate::limits::DATABASE_BYTES_MAX;

/// Ids and names of one kind.
#[derive(Debug)]
pub(crate) struct Owners {
    names: HashMap<u32, Vec<u8>>,
}

impl Owners {
    /// Reads `/etc/passwd` or `/etc/group`. Without the file, nobody has a name.
    pub(crate) fn read(path: &str) -> Self {
        // Non-blocking: the image may have put anything there, a pipe for example.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let mut text = Vec::new();
        if let Ok(file) = file.and_then(|file| file.metadata().map(|meta| (file, meta)))
            && file.1.is_file()
        {
            // What was read before a failure is as good as it gets.
            let _ = file.0.take(DATABASE_BYTES_MAX).read_to_end(&mut text);
        }
        Self::parse(&text)
    }

    /// The first line of an id counts, as in every libc.
    fn parse(text: &[u8]) -> Self {
        let mut names = HashMap::new();
        for line in text.split(|byte| *byte == b'\n') {
            let mut fields = line.split(|byte| *byte == b':');
            let (Some(name), Some(id)) = (fields.next(), fields.nth(1)) else { continue };
            let id = str::from_utf8(id).ok().and_then(|id| id.parse().ok());
            if let Some(id) = id.filter(|_| !name.is_empty() && !name.starts_with(b"#")) {
                names.entry(id).or_insert_with(|| name.to_vec());
            }
        }
        Self { names }
    }

    /// The name of `id`, or its digits.
    pub(crate) fn name(&self, id: u32) -> Vec<u8> {
        self.names.get(&id).cloned().unwrap_or_else(|| id.to_string().into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_others_are_numbers() {
        let text = b"root:x:0:0:root:/root:/bin/sh\n\n# a:x:7:\nbroken\nb:x:no:\n:x:8:\n\
            daemon:x:1:1::/:/x\nlater:x:1:\n\xff\xfe:x:9:";
        let owners = Owners::parse(text);
        for (id, name) in
            [(0, &b"root"[..]), (1, b"daemon"), (7, b"7"), (8, b"8"), (9, b"\xff\xfe"), (42, b"42")]
        {
            assert_eq!(owners.name(id), name);
        }
        assert_eq!(Owners::read("/nowhere/passwd").name(0), b"0");
        assert_eq!(Owners::read("/dev/zero").name(0), b"0");
    }
}
