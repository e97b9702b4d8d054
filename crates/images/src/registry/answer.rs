//! What registries answer besides images: who is to prove what, tokens, words.

use serde::Deserialize;
use ureq::http::{HeaderMap, header};

use super::RegistryError;
use crate::limits::ANSWER_CHARS_MAX;
use crate::manifest::ManifestError;

/// How a registry wants to be convinced (RFC 9110, 11.6.1; RFC 6750).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// By name and password.
    Basic,
    /// By a token that another place gives.
    Bearer {
        /// Its address.
        realm: String,
        /// What the token is for.
        service: Option<String>,
    },
}

/// The challenge of a refusal that can be met: a token's before a password's.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let values = headers.get_all(header::WWW_AUTHENTICATE);
    let challenges: Vec<Challenge> =
        values.iter().filter_map(|value| parse(value.to_str().ok()?)).collect();
    let bearer = challenges.iter().position(|it| matches!(it, Challenge::Bearer { .. }));
    challenges.into_iter().nth(bearer.unwrap_or(0))
}

fn parse(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut rest) = (None, None, rest.trim_start());
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after
                .split_once(',')
                .map_or((after, ""), |(value, _)| (value, &after[value.len()..])),
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            _ => {}
        }
        rest = after.trim_start_matches([',', ' ']);
    }
    Some(Challenge::Bearer { realm: realm?, service })
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// The token in the answer of the place that gives them.
pub(super) fn token(bytes: &[u8]) -> Result<String, RegistryError> {
    let garbled = |why: &str| ManifestError::Garbled { what: "token", why: why.to_owned() }.into();
    // What serde says could quote the token.
    let token: Token = serde_json::from_slice(bytes).map_err(|_| garbled("it is no JSON"))?;
    let token = token.token.or(token.access_token);
    let is_sendable = |token: &String| token.bytes().all(|byte| byte.is_ascii_graphic());
    token.filter(is_sendable).ok_or_else(|| garbled("there is none"))
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What a registry says of a refusal: ": CODE: message", shortened, or nothing.
pub(super) fn words(bytes: &[u8]) -> String {
    let Ok(Errors { errors }) = serde_json::from_slice(bytes) else { return String::new() };
    let Some(Message { code, message }) = errors.into_iter().next() else { return String::new() };
    let words = format!(": {code}: {message}");
    words.chars().filter(|letter| !letter.is_control()).take(ANSWER_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use ureq::http::{HeaderMap, HeaderValue, header};

    use super::*;

    #[test]
    fn challenges_are_read() {
        let check = |texts: &[&'static str], wanted: Option<Challenge>| {
            let mut headers = HeaderMap::new();
            for text in texts {
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(text));
            }
            assert_eq!(challenge(&headers), wanted, "{texts:?}");
        };
        let bearer = |realm: &str, service: Option<&str>| {
            let service = service.map(str::to_owned);
            Some(Challenge::Bearer { realm: realm.to_owned(), service })
        };
        let hub = "Bearer realm=\"https://auth.test/token\",service=\"r.test\",scope=\"a,b\"";
        check(&[hub], bearer("https://auth.test/token", Some("r.test")));
        check(&["bearer service=x, Realm=https://a.test"], bearer("https://a.test", Some("x")));
        check(&["Basic realm=\"x\"", hub], bearer("https://auth.test/token", Some("r.test")));
        check(&["Basic realm=\"x\""], Some(Challenge::Basic));
        check(&["Bearer service=\"x\""], None);
        check(&["Bearer realm=\"x"], None);
        check(&["Negotiate"], None);
        check(&[], None);
    }

    #[test]
    fn tokens_and_words_are_read() {
        assert_eq!(token(b"{\"token\":\"a\"}").unwrap(), "a");
        assert_eq!(token(b"{\"access_token\":\"b\"}").unwrap(), "b");
        for bad in [&b"{}"[..], b"secret", b"{\"token\":\"a\\r\\nX: y\"}"] {
            let error = token(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let said = words(b"{\"errors\":[{\"code\":\"X\",\"message\":\"a\\nb\"}]}");
        assert_eq!(said, ": X: ab");
        assert_eq!(words(b"<html>"), "");
    }
}
