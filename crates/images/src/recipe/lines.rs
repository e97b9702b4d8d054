//! From physical to logical lines: continuations, comments, here documents, the escape directive.

use crate::limits::{LINE_CHARS_MAX, RECIPE_BYTES_MAX, RECIPE_STEPS_MAX};
use crate::recipe::{Problem, RecipeError};

/// An instruction with its arguments on one line, and its here documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Number of the first physical line, from 1.
    pub(super) number: usize,
    /// The first word, upper case.
    pub(super) name: String,
    /// What follows it, joined, without outer spaces.
    pub(super) rest: String,
    /// Here documents in the order of their `<<`.
    pub(super) heredocs: Vec<Heredoc>,
}

/// A here document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heredoc {
    /// The word after `<<`, without quotes.
    pub(super) name: String,
    /// As written, with `<<`, for the shell.
    pub(super) token: String,
    /// Its lines, each with its line end; tabs at their starts removed for `<<-`.
    pub(super) content: String,
    /// The lines as written, the last one included.
    pub(super) raw: String,
    /// Whether variables in it are expanded.
    pub(super) expands: bool,
}

/// All logical lines, and the character that escapes.
pub(super) fn split(text: &str) -> Result<(Vec<Line>, char), RecipeError> {
    if text.len() > RECIPE_BYTES_MAX {
        return Err(error(1, text, Problem::TooLong("4 MiB")));
    }
    let mut reader = Reader { lines: text.lines().enumerate().peekable(), escape: '\\' };
    reader.read_directives();
    let mut lines = Vec::new();
    while let Some((number, text)) = reader.next_joined() {
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        let (name, rest) = (name.to_uppercase(), rest.trim().to_owned());
        let mut heredocs = Vec::new();
        if matches!(name.as_str(), "RUN" | "COPY" | "ADD") {
            for token in heredoc_tokens(&rest) {
                heredocs.push(reader.read_heredoc(token).map_err(|p| error(number, &text, p))?);
            }
        }
        lines.push(Line { number, name, rest, heredocs });
        if lines.len() > RECIPE_STEPS_MAX {
            return Err(error(number, &text, Problem::TooLong("2000 instructions")));
        }
    }
    Ok((lines, reader.escape))
}

/// An error about one line.
pub(super) fn error(line: usize, text: &str, problem: Problem) -> RecipeError {
    RecipeError { line, text: shorten(text), problem }
}

/// A text on one line of bounded length.
pub(super) fn shorten(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LINE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

struct Reader<'t> {
    lines: std::iter::Peekable<std::iter::Enumerate<std::str::Lines<'t>>>,
    escape: char,
}

impl Reader<'_> {
    /// `# escape=X` counts only before everything else, other comments end the directives.
    fn read_directives(&mut self) {
        while let Some((_, line)) = self.lines.peek() {
            let Some(comment) = line.trim_start().strip_prefix('#') else { return };
            let Some((name, value)) = comment.split_once('=') else { return };
            match (name.trim().to_lowercase().as_str(), value.trim()) {
                ("escape", "`") => self.escape = '`',
                ("escape" | "syntax" | "check", _) => {}
                _ => return,
            }
            self.lines.next();
        }
    }

    fn next_joined(&mut self) -> Option<(usize, String)> {
        let mut joined: Option<(usize, String)> = None;
        for (index, line) in self.lines.by_ref() {
            let trimmed = line.trim();
            // Comments go also in the middle of a continued line; empty lines do not end one.
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let end = line.trim_end();
            let (part, goes_on) = match end.strip_suffix(self.escape) {
                Some(part) => (part, true),
                None => (line, false),
            };
            match &mut joined {
                Some((_, text)) => text.push_str(part),
                None => joined = Some((index + 1, part.trim_start().to_owned())),
            }
            if !goes_on {
                break;
            }
        }
        joined
    }

    fn read_heredoc(&mut self, token: Token) -> Result<Heredoc, Problem> {
        let Token { text, name, expands, strips_tabs } = token;
        let (mut content, mut raw) = (String::new(), String::new());
        for (_, line) in self.lines.by_ref() {
            raw.push_str(line);
            raw.push('\n');
            let line = if strips_tabs { line.trim_start_matches('\t') } else { line };
            if line == name {
                return Ok(Heredoc { name, token: text, content, raw, expands });
            }
            content.push_str(line);
            content.push('\n');
        }
        Err(Problem::OpenHeredoc(name))
    }
}

/// A `<<` and its delimiter.
struct Token {
    text: String,
    name: String,
    expands: bool,
    strips_tabs: bool,
}

/// The here documents that a line announces. What stands inside quotes announces none.
fn heredoc_tokens(rest: &str) -> Vec<Token> {
    let words = crate::recipe::words::split(rest, '\\').unwrap_or_default();
    words.into_iter().filter_map(heredoc_token).collect()
}

/// `<<NAME`, `<<-NAME`, `<<"NAME"`, each with the number of a descriptor before it or without.
fn heredoc_token(text: String) -> Option<Token> {
    let after = text.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (after, strips_tabs) = match after.strip_prefix('-') {
        Some(after) => (after, true),
        None => (after, false),
    };
    let quoted =
        ['"', '\''].into_iter().find_map(|quote| after.strip_prefix(quote)?.strip_suffix(quote));
    let name = quoted.unwrap_or(after).to_owned();
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    let expands = quoted.is_none();
    is_name.then_some(Token { text, name, expands, strips_tabs })
}
