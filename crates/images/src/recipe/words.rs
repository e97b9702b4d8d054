//! Words of a line, and the variables in them, by the rules of Docker's own small shell language:
//! nothing expands in single quotes, variables do in double quotes, the escape character takes the
//! meaning of what follows.

use crate::recipe::Problem;

/// Splits at white space outside quotes. Quotes and escapes stay in the words.
pub(super) fn split(text: &str, escape: char) -> Result<Vec<String>, Problem> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if c == open => quote = None,
            Some(_) | None => {}
        }
        word.push(c);
        if c == escape && quote != Some('\'') {
            word.extend(chars.next());
        }
    }
    if let Some(open) = quote {
        return Err(Problem::OpenQuote(open));
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// The strings of a JSON array. `None` when the text is none: it is then meant for a shell.
pub(super) fn json_array(text: &str) -> Option<Vec<String>> {
    if !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// Removes quotes and escapes, and puts in variables as `lookup` knows them. An unset variable
/// is empty.
pub(crate) fn expand(
    text: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Problem> {
    let mut expansion = Expansion { rest: text, escape, lookup };
    expansion.read_until(None)
}

/// Puts in variables and leaves quotes alone. The escape character only saves a `$`, itself or a
/// line end.
pub(crate) fn expand_text(
    text: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Problem> {
    let mut expansion = Expansion { rest: text, escape, lookup };
    let mut out = String::new();
    while let Some(c) = expansion.take() {
        match c {
            '$' => out.push_str(&expansion.read_variable()?),
            _ if c == escape => match expansion.take() {
                Some('$') => out.push('$'),
                Some(next) if next == escape => out.push(escape),
                Some('\n') => {}
                next => out.extend([Some(c), next].into_iter().flatten()),
            },
            _ => out.push(c),
        }
    }
    Ok(out)
}

struct Expansion<'t, 'l> {
    rest: &'t str,
    escape: char,
    lookup: &'l dyn Fn(&str) -> Option<String>,
}

impl Expansion<'_, '_> {
    /// Reads up to `end` (which it takes), or to the end of the text.
    fn read_until(&mut self, end: Option<char>) -> Result<String, Problem> {
        let mut out = String::new();
        while let Some(c) = self.take() {
            match c {
                _ if Some(c) == end => return Ok(out),
                '\'' => self.read_single(&mut out)?,
                '"' => self.read_double(&mut out)?,
                '$' => out.push_str(&self.read_variable()?),
                // An escape at the very end stands for itself.
                _ if c == self.escape => out.push(self.take().unwrap_or(c)),
                _ => out.push(c),
            }
        }
        match end {
            None => Ok(out),
            Some(_) => Err(Problem::Variable(out)),
        }
    }

    fn read_single(&mut self, out: &mut String) -> Result<(), Problem> {
        loop {
            match self.take() {
                Some('\'') => return Ok(()),
                Some(c) => out.push(c),
                None => return Err(Problem::OpenQuote('\'')),
            }
        }
    }

    fn read_double(&mut self, out: &mut String) -> Result<(), Problem> {
        loop {
            match self.take() {
                Some('"') => return Ok(()),
                Some('$') => out.push_str(&self.read_variable()?),
                Some(c) if c == self.escape => match self.take() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        out.push(next);
                    }
                    Some(next) => out.extend([c, next]),
                    None => return Err(Problem::OpenQuote('"')),
                },
                Some(c) => out.push(c),
                None => return Err(Problem::OpenQuote('"')),
            }
        }
    }

    /// After a `$`.
    fn read_variable(&mut self) -> Result<String, Problem> {
        if self.rest.starts_with('{') {
            self.take();
            return self.read_braced();
        }
        let name = self.read_name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok((self.lookup)(&name).unwrap_or_default())
    }

    /// After a `${`.
    fn read_braced(&mut self) -> Result<String, Problem> {
        let name = self.read_name();
        let operator: String = match self.take() {
            Some('}') if !name.is_empty() => return Ok((self.lookup)(&name).unwrap_or_default()),
            Some(':') if !name.is_empty() => {
                [Some(':'), self.take()].into_iter().flatten().collect()
            }
            Some(c) if !name.is_empty() => c.to_string(),
            _ => return Err(Problem::Variable(name)),
        };
        let value = (self.lookup)(&name);
        // With a colon an empty value counts as none.
        let value = value.filter(|value| !operator.starts_with(':') || !value.is_empty());
        let word = self.read_until(Some('}'))?;
        match operator.as_str() {
            "-" | ":-" => Ok(value.unwrap_or(word)),
            "+" | ":+" => Ok(value.map(|_| word).unwrap_or_default()),
            "?" | ":?" => value.ok_or(Problem::Unset { name, text: word }),
            _ => Err(Problem::Variable(format!("{name}{operator}{word}}}"))),
        }
    }

    /// A name, or one digit or sign that a shell would take for one.
    fn read_name(&mut self) -> String {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let end = if self.rest.starts_with(|c: char| c.is_ascii_digit()) { 1 } else { end };
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name.to_owned()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }
}

#[cfg(test)]
mod tests {
    use super::{Problem, expand, expand_text, split};

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".to_owned()),
            "SPACE" => Some("a b".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn expansion_follows_dockers_rules() {
        let check = |text: &str, wanted: &str| {
            assert_eq!(expand(text, '\\', &lookup).as_deref(), Ok(wanted), "{text}");
        };
        check("plain", "plain");
        check("$A/${A}x$Ax", "one/onex");
        check("'$A'", "$A");
        check("\"$A b\"", "one b");
        check("\\$A", "$A");
        check("\"\\$A \\\" \\n\"", "$A \" \\n");
        check("'it'\"'\"'s'", "it's");
        check("${NO:-else $A}", "else one");
        check("${EMPTY:-else}", "else");
        check("${EMPTY-else}", "");
        check("${A:+yes}${NO:+no}${EMPTY:+no}${EMPTY+yes}", "yesyes");
        check("${NO:-${NO2:-deep}}", "deep");
        check("${NO:-'a}b'}", "a}b");
        check("$", "$");
        check("a$/b", "a$/b");
        check("trailing\\", "trailing\\");
        check("$SPACE", "a b");
    }

    #[test]
    fn what_cannot_be_expanded_is_said() {
        let check = |text: &str, wanted: Problem| {
            assert_eq!(expand(text, '\\', &lookup), Err(wanted), "{text}");
        };
        check("'open", Problem::OpenQuote('\''));
        check("\"open", Problem::OpenQuote('"'));
        check("${A", Problem::Variable("A".to_owned()));
        check("${}", Problem::Variable(String::new()));
        check("${A#o}", Problem::Variable("A#o}".to_owned()));
        check("${A:-x", Problem::Variable("x".to_owned()));
        let text = "say which".to_owned();
        check("${NO:?say which}", Problem::Unset { name: "NO".to_owned(), text });
    }

    #[test]
    fn here_documents_keep_their_quotes() {
        let text = "it's \"$A\" \\$A \\n \\\\ ${NO:-else}\n";
        let wanted = "it's \"one\" $A \\n \\ else\n";
        assert_eq!(expand_text(text, '\\', &lookup).as_deref(), Ok(wanted));
    }

    #[test]
    fn words_keep_quotes_together() {
        let check = |text: &str, wanted: &[&str]| {
            assert_eq!(split(text, '\\').unwrap(), wanted, "{text}");
        };
        check("  a  b ", &["a", "b"]);
        check("A='x y' B=\"p q\" C=r\\ s", &["A='x y'", "B=\"p q\"", "C=r\\ s"]);
        check("'a\\' b", &["'a\\'", "b"]);
        check("", &[]);
        assert_eq!(split("'a b", '\\'), Err(Problem::OpenQuote('\'')));
    }

    proptest::proptest! {
        /// What a shell quoter writes comes out as it was: the client quotes ENV values so.
        #[test]
        fn quoted_values_come_out_whole(value in "[^\n\r\0]*") {
            let quoted = format!("'{}'", value.replace('\'', "'\"'\"'"));
            let words = split(&format!("K={quoted}"), '\\').unwrap();
            proptest::prop_assert_eq!(words.len(), 1);
            let expanded = expand(&words[0][2..], '\\', &lookup).unwrap();
            proptest::prop_assert_eq!(expanded, value);
        }

        #[test]
        fn nothing_panics(text in ".*") {
            let _ = split(&text, '\\');
            let _ = expand(&text, '\\', &lookup);
            let _ = expand(&text, '`', &lookup);
        }
    }
}
