//! The files of the repository. No git is needed: a tree that was unpacked can be checked too.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Directories of things that are made, not written.
const MADE: &[&str] = &[".git", "target", "__pycache__", ".pytest_cache", "node_modules", "venv"];

/// A text file, its path relative to the repository.
#[derive(Debug)]
pub(super) struct TextFile {
    pub(super) path: String,
    pub(super) text: String,
}

/// All text files below `root`, in the order of their paths.
pub(super) fn files(root: &Path) -> Result<Vec<TextFile>> {
    let mut files = Vec::new();
    collect(root, "", &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn collect(dir: &Path, prefix: &str, files: &mut Vec<TextFile>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("{} is unreadable", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{prefix}{name}");
        let kind = entry.file_type()?;
        if kind.is_dir() && !MADE.contains(&name.as_str()) {
            collect(&entry.path(), &format!("{path}/"), files)?;
        } else if kind.is_file() && name != "Cargo.lock" {
            // What is no text has no lines to check.
            if let Ok(text) = fs::read_to_string(entry.path()) {
                files.push(TextFile { path, text });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_and_binary_files_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for (path, bytes) in [
            ("crates/a/src/lib.rs", "one".as_bytes()),
            ("target/debug/x.rs", b"two"),
            ("Cargo.lock", b"three"),
            ("picture", &[0xff, 0xfe, 0x00]),
            (".ci/run", b"four"),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let found = files(dir.path()).unwrap();
        let paths: Vec<&str> = found.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, [".ci/run", "crates/a/src/lib.rs"]);
    }
}
