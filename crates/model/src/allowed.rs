//! Entries of lists of what may pass, as users write them: ranges of addresses, and host names.

use std::net::IpAddr;

use ipnet::IpNet;

/// A range of addresses. One that is written with an address inside it would be read by some as
/// that address, by others as the range: it is refused.
///
/// # Errors
/// What is wrong with it.
pub fn range(text: &str) -> Result<IpNet, String> {
    let shown: String = text.chars().take(80).collect();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Err(format!("`{shown}` has no length: write {}", IpNet::from(address)));
    }
    // The standard library's addresses: `010.0.0.0` is none of them, since some read it as 8.0.0.0.
    let range = text.split_once('/').and_then(|(address, length)| {
        let digits = (1..=3).contains(&length.len()) && length.bytes().all(|c| c.is_ascii_digit());
        let length = length.parse().ok().filter(|_| digits)?;
        IpNet::new(address.parse().ok()?, length).ok()
    });
    let range = range.ok_or_else(|| {
        format!("`{shown}` is no range of addresses: write it like 203.0.113.0/24")
    })?;
    if range.addr() != range.network() {
        return Err(format!("`{shown}` has bits beyond its length: write {}", range.trunc()));
    }
    Ok(range)
}

/// A host name, or `*.` and one, in lower case and without a dot at the end.
///
/// # Errors
/// What is wrong with it.
pub fn domain(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let shown: String = text.chars().take(80).collect();
    if name == "*" {
        return Err("`*` would allow every name: leave the list out instead".into());
    }
    let labels = name.strip_prefix("*.").unwrap_or(&name);
    if labels.contains('*') {
        return Err(format!("`{shown}`: `*` may stand at the front only, as in *.example.com"));
    }
    let fits = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if labels.parse::<IpAddr>().is_ok() {
        return Err(format!("`{shown}` is an address: put it into outbound_cidr_allowlist"));
    }
    if labels.len() > 253 || !labels.split('.').all(fits) {
        return Err(format!(
            "`{shown}` is no name: letters, digits and dashes between dots, and xn-- for others"
        ));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_strictly() {
        for (text, want) in [
            ("10.0.0.0/8", Ok("10.0.0.0/8")),
            ("203.0.113.7/32", Ok("203.0.113.7/32")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("2001:db8::/32", Ok("2001:db8::/32")),
            ("10.1.0.0/8", Err("write 10.0.0.0/8")),
            ("2001:db8::1/32", Err("write 2001:db8::/32")),
            ("1.2.3.4", Err("write 1.2.3.4/32")),
            ("::1", Err("write ::1/128")),
            ("10.0.0.0/33", Err("no range")),
            ("10.0.0/8", Err("no range")),
            ("010.0.0.0/8", Err("no range")),
            ("10.0.0.0/+8", Err("no range")),
            ("10.0.0.0/8/8", Err("no range")),
            ("", Err("no range")),
            ("a\0b", Err("no range")),
        ] {
            match (range(text), want) {
                (Ok(range), Ok(want)) => assert_eq!(range.to_string(), want),
                (Err(why), Err(want)) => assert!(why.contains(want), "{text}: {why}"),
                (got, want) => panic!("{text}: {got:?} instead of {want:?}"),
            }
        }
    }

    #[test]
    fn names_are_read_strictly() {
        let long = "a".repeat(64);
        for (text, want) in [
            ("example.com", Ok("example.com")),
            ("Example.COM.", Ok("example.com")),
            ("*.example.com", Ok("*.example.com")),
            ("_dmarc.x-y.org", Ok("_dmarc.x-y.org")),
            ("localhost", Ok("localhost")),
            ("*", Err("leave the list out")),
            ("*.", Err("leave the list out")),
            ("a.*.com", Err("front only")),
            ("*.*.com", Err("front only")),
            ("*a.com", Err("front only")),
            ("a..com", Err("no name")),
            (".com", Err("no name")),
            ("-a.com", Err("no name")),
            ("a b.com", Err("no name")),
            ("bücher.de", Err("no name")),
            ("https://a.com", Err("no name")),
            ("a.com:443", Err("no name")),
            (long.as_str(), Err("no name")),
            ("1.2.3.4", Err("is an address")),
            ("", Err("no name")),
        ] {
            match (domain(text), want) {
                (Ok(name), Ok(want)) => assert_eq!(name, want),
                (Err(why), Err(want)) => assert!(why.contains(want), "{text}: {why}"),
                (got, want) => panic!("{text}: {got:?} instead of {want:?}"),
            }
        }
    }
}
