//! Patterns in the sources of a copy, by Docker's rules.

/// Whether a path matches a pattern of `*`, `?`, `[a-z]`, `[^a]` and `\`; none of them matches
/// a slash. Each star goes back at most over its own part of the path.
pub(crate) fn glob(pattern: &str, path: &str) -> bool {
    let (patterns, parts) = (pattern.split('/'), path.split('/'));
    patterns.clone().count() == parts.clone().count()
        && patterns.zip(parts).all(|(pattern, part)| matches(pattern, part))
}

/// Whether a path, or a part of one, may name several files.
#[must_use]
pub fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '[', '\\'])
}

/// Whether one part of a path matches a pattern of `*`, `?`, `[a-z]`, `[^a]` and `\`.
#[must_use]
pub fn matches(pattern: &str, part: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let part: Vec<char> = part.chars().collect();
    glob_part(&pattern, &part)
}

fn glob_part(pattern: &[char], part: &[char]) -> bool {
    let (mut at, mut read) = (0, 0);
    // Where to go on when the last star must take one character more.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&'*') {
            star = Some((at + 1, read));
            at += 1;
            continue;
        }
        let step = part.get(read).and_then(|c| match_one(&pattern[at..], *c));
        match step {
            Some(len) => {
                at += len;
                read += 1;
            }
            None if at == pattern.len() && read == part.len() => return true,
            None => {
                let Some((after, taken)) = star.filter(|(_, taken)| *taken < part.len()) else {
                    return false;
                };
                star = Some((after, taken + 1));
                (at, read) = (after, taken + 1);
            }
        }
    }
}

/// How many characters of the pattern stand for `c`, if its first one does.
fn match_one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['\\', literal, ..] => (*literal == c).then_some(2),
        ['[', set @ ..] => {
            let end = set.iter().skip(1).position(|c| *c == ']')? + 1;
            let (set, negated) = match &set[..end] {
                ['^', rest @ ..] => (rest, true),
                set => (set, false),
            };
            (in_set(set, c) != negated).then_some(end + 2)
        }
        [literal, ..] => (*literal == c).then_some(1),
        [] => None,
    }
}

fn in_set(mut set: &[char], c: char) -> bool {
    loop {
        set = match set {
            [low, '-', high, rest @ ..] if (*low..=*high).contains(&c) || rest.is_empty() => {
                return (*low..=*high).contains(&c);
            }
            [_, '-', _, rest @ ..] => rest,
            [one, rest @ ..] if *one != c => rest,
            set => return !set.is_empty(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn patterns_match_as_in_docker() {
        let check = |pattern, path, wanted| assert_eq!(glob(pattern, path), wanted, "{pattern}");
        check("/a*c", "/abc", true);
        check("/a*c", "/ac", true);
        check("/*", "/a/b", false);
        check("/*/b", "/a/b", true);
        check("/*a*b", "/xaxbxab", true);
        check("/*a*b", "/xaxbxa", false);
        check("/[a-c]?", "/bz", true);
        check("/[^a-c]", "/b", false);
        check("/[xa-cy]", "/y", true);
        check("/[xa-c]", "/d", false);
        check("/[", "/[", false);
        check("/\\*", "/*", true);
        check("/\\*", "/a", false);
        check("/a", "/ab", false);
    }

    proptest::proptest! {
        #[test]
        fn globs_end_and_stars_match_all(
            pattern in "[*?a\\[\\]\\\\^-]{0,12}",
            part in "[a-c\\[]{0,12}",
        ) {
            let _ = glob(&pattern, &part);
            proptest::prop_assert!(glob("*", &part));
        }
    }
}
