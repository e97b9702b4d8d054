//! Addresses in the texts of settings.

use std::net::IpAddr;

/// Whether a host of an address is the machine itself.
pub(super) fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// Host and port of each `scheme://host[:port]` in a text. Those of schemes without a
/// known port need one.
pub(super) fn addresses(text: &str) -> impl Iterator<Item = (String, u16)> {
    authorities(text).filter_map(|(scheme, authority)| {
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = match host.strip_prefix('[') {
            Some(host) => {
                let (host, rest) = host.split_once(']')?;
                (host, rest.strip_prefix(':'))
            }
            None => match host.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (host, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().ok()?,
            None => match scheme {
                "http" => 80,
                "https" => 443,
                "socks5" | "socks5h" | "socks4" | "socks4a" | "socks" => 1080,
                _ => return None,
            },
        };
        (!host.is_empty()).then(|| (host.to_owned(), port))
    })
}

/// Whether an address of the text has a user name (and so perhaps a password or token).
pub(crate) fn has_password(text: &str) -> bool {
    authorities(text).any(|(_, authority)| authority.contains('@'))
}

/// The scheme and what follows `://` up to the path, of each address in a text.
fn authorities(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.match_indices("://").map(|(at, _)| {
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        let start = text[..at].rfind(|c| !is_scheme(c));
        let scheme = &text[start.map_or(0, |start| start + 1)..at];
        let after = &text[at + 3..];
        let is_end = |c: char| c.is_whitespace() || "/?#'\",;".contains(c);
        (scheme, &after[..after.find(is_end).unwrap_or(after.len())])
    })
}

#[cfg(test)]
mod tests {
    use super::{addresses, has_password, is_loopback};

    #[test]
    fn addresses_are_found_in_texts() {
        let check = |text: &str, wanted: &[(&str, u16)]| {
            let found: Vec<_> = addresses(text).collect();
            let wanted: Vec<_> = wanted.iter().map(|(h, p)| ((*h).to_owned(), *p)).collect();
            assert_eq!(found, wanted, "{text}");
        };
        check("https://a.test/simple http://b.test:81", &[("a.test", 443), ("b.test", 81)]);
        check("x \"http://u:p@c.test:3128\";", &[("c.test", 3128)]);
        check("name=https://d.test,https://e.test", &[("d.test", 443), ("e.test", 443)]);
        check("http://[::1]:8080/", &[("::1", 8080)]);
        check("socks5h://f.test", &[("f.test", 1080)]);
        check("file:///opt/wheels git+ssh://g.test http:// http://h:x", &[]);
    }

    #[test]
    fn passwords_are_seen() {
        assert!(has_password("a https://u:p@h.test/x"));
        assert!(has_password("https://token@h.test"));
        assert!(!has_password("https://h.test/a@b"));
    }

    #[test]
    fn loopback_is_known_in_all_its_forms() {
        for host in ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LocalHost"] {
            assert!(is_loopback(host), "{host}");
        }
        assert!(!is_loopback("10.0.0.1") && !is_loopback("host.test"));
    }
}
