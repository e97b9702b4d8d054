//! Where a request carries its token, and how that is taken out of it.

use http::header::{AUTHORIZATION, COOKIE, SET_COOKIE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};

use crate::limits::TOKEN_BYTES_MAX;

/// The name of a token in a query or a cookie, as the client's documentation has it.
const TOKEN: &str = "_modal_connect_token";

/// How cookies of ours begin.
const COOKIES: &str = "_modal_connect_";

/// Where a token was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Query,
    Header,
    Cookie,
    Session,
}

/// What a request carried.
#[derive(Debug)]
pub(super) struct Credentials {
    /// In the order in which they are tried.
    pub(super) tokens: Vec<(Source, String)>,
    /// A session of this port.
    pub(super) session: Option<String>,
    /// The header, for the program inside if it was not for us.
    authorization: Option<HeaderValue>,
}

impl Credentials {
    /// Takes all of them out of a request.
    pub(super) fn take(parts: &mut Parts, port: u16) -> Self {
        let mut tokens = Vec::new();
        let mut add = |source, token: &str| {
            if !token.is_empty() && token.len() <= TOKEN_BYTES_MAX {
                tokens.push((source, token.to_owned()));
            }
        };
        for token in take_query(&mut parts.uri) {
            add(Source::Query, &token);
        }
        let authorization = parts.headers.remove(AUTHORIZATION);
        let bearer = authorization.as_ref().and_then(|value| value.to_str().ok());
        if let Some((scheme, token)) = bearer.and_then(|value| value.split_once(' '))
            && scheme.eq_ignore_ascii_case("bearer")
        {
            add(Source::Header, token.trim());
        }
        let mut session = None;
        for (name, value) in take_cookies(&mut parts.headers) {
            if name == TOKEN {
                add(Source::Cookie, &value);
            } else if name == session_name(port) {
                session = Some(value);
            }
        }
        Self { tokens, session, authorization }
    }

    /// Gives the header back to a request whose token was elsewhere: the program inside may have
    /// tokens of its own.
    pub(super) fn give_back(&mut self, parts: &mut Parts, source: Source) {
        if source != Source::Header
            && let Some(value) = self.authorization.take()
        {
            parts.headers.insert(AUTHORIZATION, value);
        }
    }
}

fn session_name(port: u16) -> String {
    format!("{COOKIES}session_{port}")
}

/// The cookie of a session, for this port's requests of the browser.
pub(super) fn cookie(port: u16, session: &str, is_tls: bool) -> HeaderValue {
    let secure = if is_tls { "; Secure" } else { "" };
    let name = session_name(port);
    let text = format!("{name}={session}; Path=/; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::from_str(&text).expect("hexadecimal digits and fixed words are a header")
}

/// Takes the token's parameters out of a query.
fn take_query(uri: &mut Uri) -> Vec<String> {
    let Some(query) = uri.query() else { return Vec::new() };
    let is_token = |pair: &&str| pair.split('=').next() == Some(TOKEN);
    let (taken, kept): (Vec<_>, Vec<_>) = query.split('&').partition(is_token);
    if taken.is_empty() {
        return Vec::new();
    }
    let tokens = taken.iter().map(|pair| pair[TOKEN.len()..].trim_start_matches('=').to_owned());
    let tokens = tokens.collect();
    let question = if kept.is_empty() { "" } else { "?" };
    let rest = format!("{}{question}{}", uri.path(), kept.join("&"));
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query =
        Some(PathAndQuery::try_from(rest).expect("a path with a part of its query is one"));
    *uri = Uri::from_parts(parts).expect("only the query is shorter");
    tokens
}

/// Takes our cookies out of a request's headers. HTTP/2 may spread cookies over many headers; for
/// HTTP/1.1 they are joined (RFC 9113, 8.2.3).
fn take_cookies(headers: &mut HeaderMap) -> Vec<(String, String)> {
    let (mut taken, mut kept) = (Vec::new(), Vec::new());
    for value in headers.get_all(COOKIE) {
        for part in value.as_bytes().split(|byte| *byte == b';') {
            let part = part.trim_ascii();
            if part.starts_with(COOKIES.as_bytes()) {
                let text = String::from_utf8_lossy(part);
                let (name, value) = text.split_once('=').unwrap_or((&text, ""));
                taken.push((name.to_owned(), value.to_owned()));
            } else if !part.is_empty() {
                kept.push(part);
            }
        }
    }
    let kept = kept.join(&b"; "[..]);
    headers.remove(COOKIE);
    if let Ok(value) = HeaderValue::from_bytes(&kept)
        && !value.is_empty()
    {
        headers.insert(COOKIE, value);
    }
    taken
}

/// Takes cookies with names of ours out of an answer: one sandbox's program could put a session of
/// its own into the place of another's.
pub(super) fn strip_cookies(headers: &mut HeaderMap) {
    let all: Vec<_> = headers.get_all(SET_COOKIE).iter().cloned().collect();
    headers.remove(SET_COOKIE);
    for value in all {
        if !value.as_bytes().trim_ascii().starts_with(COOKIES.as_bytes()) {
            headers.append(SET_COOKIE, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(uri: &str, headers: &[(&str, &str)], tokens: &[(Source, &str)], rest: &str) {
        let mut request = http::Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let taken = Credentials::take(&mut parts, 5);
        let found: Vec<_> = taken.tokens.iter().map(|(s, t)| (*s, t.as_str())).collect();
        assert_eq!(found, tokens, "{uri} {headers:?}");
        let cookies = parts.headers.get(COOKIE).map_or("", |value| value.to_str().unwrap());
        let session = taken.session.unwrap_or_default();
        assert_eq!(format!("{} {cookies} {session}", parts.uri), rest, "{uri} {headers:?}");
        assert!(!parts.headers.contains_key(AUTHORIZATION));
    }

    #[test]
    fn tokens_are_found_and_taken_out() {
        use Source::{Cookie, Header, Query};
        check("/a?b=c", &[], &[], "/a?b=c  ");
        check("/a?_modal_connect_token=t", &[], &[(Query, "t")], "/a  ");
        check("/a?x&_modal_connect_token=t&y=%20", &[], &[(Query, "t")], "/a?x&y=%20  ");
        check("/?_modal_connect_token", &[], &[], "/  ");
        check("/?_modal_connect_tokens=t", &[], &[], "/?_modal_connect_tokens=t  ");
        check("http://h/?_modal_connect_token=t", &[], &[(Query, "t")], "http://h/  ");
        check("/", &[("authorization", "bearer t")], &[(Header, "t")], "/  ");
        check("/", &[("authorization", "Basic t")], &[], "/  ");
        let cookies = [("cookie", "a=b; _modal_connect_token=t;c"), ("cookie", "d=e")];
        check("/", &cookies, &[(Cookie, "t")], "/ a=b; c; d=e ");
        let cookies = "_modal_connect_session_5=s; _modal_connect_session_6=other";
        check("/", &[("cookie", cookies)], &[], "/  s");
        check("/", &[("authorization", &format!("Bearer {}", "t".repeat(1_025)))], &[], "/  ");
    }

    #[test]
    fn programs_set_no_cookies_of_ours() {
        let mut headers = HeaderMap::new();
        for value in ["a=b", " _modal_connect_session_5=x", "_modal_connect_token=y", "c=d"] {
            headers.append(SET_COOKIE, value.parse().unwrap());
        }
        strip_cookies(&mut headers);
        let left: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(left, ["a=b", "c=d"]);
    }
}
