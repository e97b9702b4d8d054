//! Rules about single files.

use super::Finding;
use super::tree::TextFile;
use crate::limits::{COLUMNS_MAX, FILE_LINES_MAX, FILE_LINES_WARN};

/// Names that say nothing about what is in a module.
const EMPTY_NAMES: &[&str] =
    &["util", "utils", "common", "helper", "helpers", "manager", "misc", "stuff"];

/// Kinds of files whose lines have a limit: prose and data may be wider.
const NARROW: &[&str] = &[".rs", ".py", ".proto", ".sql"];

/// Where unsafe code may stand.
const UNSAFE_HOME: &str = "crates/jail/src/sys/";

/// What is wrong with `file`.
pub(super) fn broken(file: &TextFile) -> Vec<Finding> {
    let mut findings = names(file);
    findings.extend(lines(file));
    if let Some(finding) = without_lints(file) {
        findings.push(finding);
    }
    if is_product(&file.path) && file.text.lines().count() > FILE_LINES_MAX {
        let what = format!("{} lines, more than {FILE_LINES_MAX}", file.text.lines().count());
        findings.push(Finding::new(&file.path, what));
    }
    findings
}

/// What should become smaller.
pub(super) fn large(file: &TextFile) -> Option<Finding> {
    let lines = file.text.lines().count();
    let large = is_product(&file.path) && lines > FILE_LINES_WARN && lines <= FILE_LINES_MAX;
    large.then(|| Finding::new(&file.path, format!("{lines} lines, more than {FILE_LINES_WARN}")))
}

/// Rust code that is not only a test.
fn is_product(path: &str) -> bool {
    path.ends_with(".rs") && !path.split('/').any(|part| part == "tests" || part == "tests.rs")
}

fn names(file: &TextFile) -> Vec<Finding> {
    if !file.path.ends_with(".rs") {
        return Vec::new();
    }
    let parts = file.path.trim_end_matches(".rs").split('/');
    let empty = parts.filter(|part| EMPTY_NAMES.contains(part));
    let what = |part| format!("`{part}` says nothing about what is in it: name the noun");
    empty.map(|part| Finding::new(&file.path, what(part))).collect()
}

fn lines(file: &TextFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let narrow = NARROW.iter().any(|ending| file.path.ends_with(ending));
    let safe = file.path.ends_with(".rs") && !file.path.starts_with(UNSAFE_HOME);
    for (number, line) in (1..).zip(file.text.lines()) {
        let mut find = |what: String| {
            findings.push(Finding::new(format!("{}:{number}", file.path), what));
        };
        let columns = line.chars().count();
        if narrow && columns > COLUMNS_MAX {
            find(format!("{columns} columns, more than {COLUMNS_MAX}"));
        }
        if safe && is_unsafe(line) {
            find(format!("unsafe code outside {UNSAFE_HOME}"));
        }
        if let Some(marker) = promises().iter().find(|marker| has_word(line, marker)) {
            find(format!("{marker}: do it, or leave it out"));
        }
    }
    findings
}

/// Marks of what was left undone; composed, since this file is checked too.
fn promises() -> [String; 4] {
    [["TO", "DO"], ["FIX", "ME"], ["X", "XX"], ["HA", "CK"]].map(|parts| parts.concat())
}

fn has_word(line: &str, word: &str) -> bool {
    let bare = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        bare(line[..at].chars().next_back()) && bare(line[at + word.len()..].chars().next())
    })
}

/// Whether a line of Rust code opens something unsafe. Comments and lints only speak of it.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let word = ["un", "safe"].concat();
    code.match_indices(&word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].trim_start();
        let opens = ["{", "fn ", "impl ", "impl<", "extern ", "trait ", "("];
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '"')
            && opens.iter().any(|beginning| after.starts_with(beginning))
    })
}

/// A package whose manifest does not take the lints of the house (or say its own).
fn without_lints(file: &TextFile) -> Option<Finding> {
    if !file.path.ends_with("Cargo.toml") || !file.text.contains("[package]") {
        return None;
    }
    let has = file.text.lines().any(|line| line.starts_with("[lints"));
    (!has).then(|| Finding::new(&file.path, "no [lints]: add `[lints]\\nworkspace = true`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let file = TextFile { path: path.into(), text: text.into() };
        broken(&file).into_iter().map(|f| format!("{}: {}", f.place, f.what)).collect()
    }

    fn check(path: &str, text: &str, expected: &str) {
        let findings = found(path, text);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains(expected), "{findings:?}");
    }

    #[test]
    fn long_lines_are_counted_in_characters() {
        check("a.py", &"x".repeat(101), "a.py:1: 101 columns");
        assert!(found("a.py", &"é".repeat(100)).is_empty());
        assert!(found("a.md", &"x".repeat(200)).is_empty());
    }

    #[test]
    fn long_files_are_refused_and_longish_ones_told() {
        check("crates/x/src/a.rs", &"x\n".repeat(801), "801 lines");
        assert!(found("crates/x/tests/a.rs", &"x\n".repeat(801)).is_empty());
        let file = TextFile { path: "crates/x/src/a.rs".into(), text: "x\n".repeat(501) };
        assert_eq!(large(&file).unwrap().what, "501 lines, more than 500");
    }

    #[test]
    fn empty_names_are_refused() {
        check("crates/x/src/utils.rs", "", "`utils`");
        check("crates/x/src/helpers/y.rs", "", "`helpers`");
        assert!(found("crates/x/src/utilities.rs", "").is_empty());
    }

    #[test]
    fn dangerous_code_stays_at_home() {
        let block = format!("let x = {}safe {{ f() }};", "un");
        check("crates/jail/src/spawn.rs", &block, "outside");
        check("crates/x/src/a.rs", &format!("pub {}safe fn f() {{}}", "un"), "outside");
        assert!(found("crates/jail/src/sys/mount.rs", &block).is_empty());
        assert!(found("crates/x/src/a.rs", &format!("// {}safe {{", "un")).is_empty());
        assert!(found("crates/x/src/a.rs", &format!("#![forbid({}safe_code)]", "un")).is_empty());
    }

    #[test]
    fn promises_are_refused() {
        for marker in promises() {
            check("a.md", &format!("text {marker}: later"), &marker);
            assert!(found("a.md", &format!("a{marker}s and {marker}_b")).is_empty());
        }
    }

    #[test]
    fn every_crate_has_lints() {
        check("crates/x/Cargo.toml", "[package]\nname = \"x\"\n", "no [lints]");
        assert!(found("crates/x/Cargo.toml", "[package]\n[lints]\nworkspace = true\n").is_empty());
        assert!(found("Cargo.toml", "[workspace]\n").is_empty());
    }
}
