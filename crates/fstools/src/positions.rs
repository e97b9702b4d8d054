//! What is done with an open file: reading and writing at its position, and taking bytes out of it
//! or putting others in their place.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{OFlags, fcntl_getfl};

use crate::command::{Handle, Whence};
use crate::failure::{Failure, Kind};
use crate::handles::take;
use crate::limits::{CHUNK_BYTES_MAX, INPUT_BYTES_MAX, LINE_CHUNK_BYTES_MAX, READ_BYTES_MAX};
use crate::stream::unbuffered;

fn out() -> Result<File, Failure> {
    unbuffered(io::stdout()).map_err(Failure::of)
}

/// Sends `count` bytes from the position on to stdout, or all that are left.
pub(crate) fn read(handle: &Handle, count: Option<u64>) -> Result<(), Failure> {
    let held = take(handle)?;
    let mut left = count.unwrap_or(READ_BYTES_MAX);
    let mut chunk = vec![0; CHUNK_BYTES_MAX];
    let mut out = out()?;
    while left > 0 {
        let most = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let length = (&held.file).read(&mut chunk[..most]).map_err(Failure::of)?;
        if length == 0 {
            return Ok(());
        }
        left -= length as u64;
        out.write_all(&chunk[..length]).map_err(Failure::of)?;
    }
    let rest = count.is_none() && (&held.file).read(&mut [0]).map_err(Failure::of)? > 0;
    if rest {
        let what = format!("more than {READ_BYTES_MAX} bytes are left: read them in pieces");
        return Err(Failure::new(Kind::FileTooLarge, what));
    }
    Ok(())
}

/// Sends the rest of a line to stdout, with its end.
pub(crate) fn read_line(handle: &Handle) -> Result<(), Failure> {
    let mut held = take(handle)?;
    let mut chunk = vec![0; LINE_CHUNK_BYTES_MAX];
    let mut out = out()?;
    loop {
        let length = held.file.read(&mut chunk).map_err(Failure::of)?;
        let end = chunk[..length].iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(length, |end| end + 1);
        out.write_all(&chunk[..taken]).map_err(Failure::of)?;
        if end.is_some() || length == 0 {
            // What was read behind the line is the next one's.
            let back = i64::try_from(length - taken).unwrap_or_default();
            held.file.seek(SeekFrom::Current(-back)).map_err(Failure::of)?;
            return Ok(());
        }
    }
}

/// All of stdin. It is read before the file is taken: whoever sends it may be slow, or gone, and
/// others wait for the file.
fn input() -> Result<Vec<u8>, Failure> {
    let source = unbuffered(io::stdin()).map_err(Failure::of)?;
    let mut data = Vec::new();
    (&source).take(INPUT_BYTES_MAX + 1).read_to_end(&mut data).map_err(Failure::of)?;
    if data.len() as u64 > INPUT_BYTES_MAX {
        let what = format!("at most {INPUT_BYTES_MAX} bytes can be written at once");
        return Err(Failure::new(Kind::FileTooLarge, what));
    }
    Ok(data)
}

/// Writes stdin, until its end, at the position.
pub(crate) fn write(handle: &Handle) -> Result<(), Failure> {
    let data = input()?;
    let held = take(handle)?;
    writable(&held.file)?;
    (&held.file).write_all(&data).map_err(Failure::of)
}

/// Has what was written put on the disk.
pub(crate) fn flush(handle: &Handle) -> Result<(), Failure> {
    take(handle)?.file.sync_data().map_err(Failure::of)
}

/// Moves the position.
pub(crate) fn seek(handle: &Handle, offset: i64, whence: Whence) -> Result<(), Failure> {
    let mut held = take(handle)?;
    let before =
        || Failure::new(Kind::Invalid, "the position would be before the file's beginning");
    let to = match whence {
        Whence::Start => SeekFrom::Start(u64::try_from(offset).map_err(|_| before())?),
        Whence::Current => SeekFrom::Current(offset),
        Whence::End => SeekFrom::End(offset),
    };
    held.file.seek(to).map(drop).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => before(),
        _ => Failure::of(error),
    })
}

/// Bytes of a file: without a start from its beginning, without an end to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Span {
    start: Option<u64>,
    end: Option<u64>,
}

/// Takes bytes out of the file. The position stays.
pub(crate) fn delete(handle: &Handle, span: Span) -> Result<(), Failure> {
    replace_in(&take(handle)?.file, span, &[])
}

/// Puts what comes from stdin in the place of bytes of the file. The position stays.
pub(crate) fn replace(handle: &Handle, span: Span) -> Result<(), Failure> {
    let data = input()?;
    replace_in(&take(handle)?.file, span, &data)
}

fn writable(file: &File) -> Result<(), Failure> {
    let flags = fcntl_getfl(file).map_err(Failure::of)?;
    if flags & OFlags::RWMODE == OFlags::RDONLY {
        return Err(Failure::new(Kind::Invalid, "the file was not opened for writing"));
    }
    Ok(())
}

fn replace_in(file: &File, span: Span, data: &[u8]) -> Result<(), Failure> {
    writable(file)?;
    // Once more: the rest must be read, and what is opened to append to writes at the end only.
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = OpenOptions::new().read(true).write(true).open(own).map_err(Failure::of)?;
    let length = file.metadata().map_err(Failure::of)?.len();
    let start = span.start.unwrap_or(0).min(length);
    let end = span.end.unwrap_or(length).min(length);
    if start > end {
        return Err(Failure::new(Kind::Invalid, "the start lies behind the end"));
    }
    let after = start + data.len() as u64;
    move_rest(&file, end, after, length).map_err(Failure::of)?;
    file.write_all_at(data, start).map_err(Failure::of)?;
    file.set_len(after + (length - end)).map_err(Failure::of)
}

/// Moves the bytes between `from` and `length` so that they begin at `to`: in an order in which
/// none is overwritten before it was read.
fn move_rest(file: &File, from: u64, to: u64, length: u64) -> io::Result<()> {
    if from == to {
        return Ok(());
    }
    let mut chunk = vec![0; CHUNK_BYTES_MAX];
    let size = CHUNK_BYTES_MAX as u64;
    let chunks = (length - from).div_ceil(size);
    for number in 0..chunks {
        let number = if to < from { number } else { chunks - 1 - number };
        let at = number * size;
        let count = size.min(length - from - at);
        let part = &mut chunk[..usize::try_from(count).unwrap_or(CHUNK_BYTES_MAX)];
        file.read_exact_at(part, from + at)?;
        file.write_all_at(part, to + at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(content: &[u8]) -> File {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        let mode = rustix::fs::Mode::RWXU;
        let file = File::from(rustix::fs::open(std::env::temp_dir(), flags, mode).unwrap());
        file.write_all_at(content, 0).unwrap();
        file
    }

    fn replaced(content: &[u8], start: Option<u64>, end: Option<u64>, data: &[u8]) -> Vec<u8> {
        let file = file(content);
        replace_in(&file, Span { start, end }, data).unwrap();
        let mut all = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut all, 0).unwrap();
        all
    }

    #[test]
    fn bytes_are_replaced_as_in_a_list() {
        assert_eq!(replaced(b"hello world", Some(0), Some(5), b"goodbye"), b"goodbye world");
        assert_eq!(replaced(b"hello world", Some(5), None, b""), b"hello");
        assert_eq!(replaced(b"hello", None, None, b"x"), b"x");
        assert_eq!(replaced(b"hello", Some(9), Some(12), b"x"), b"hellox");
        assert_eq!(replaced(b"hello", None, Some(2), b""), b"llo");
        let span = Span { start: Some(3), end: Some(2) };
        assert!(replace_in(&file(b"hello"), span, b"").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_rest_is_moved_whole(
            length in 0..600_000_usize, a in 0..600_000_usize, b in 0..600_000_usize,
            new in 0..600_000_usize,
        ) {
            let content: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let data = vec![255; new];
            let (start, end) = (a.min(b).min(length), a.max(b).min(length));
            let mut wanted = content.clone();
            wanted.splice(start..end, data.iter().copied());
            let span = (Some(start as u64), Some(end as u64));
            prop_assert!(replaced(&content, span.0, span.1, &data) == wanted);
        }
    }
}
