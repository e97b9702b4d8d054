//! What a table tells of the server that made it, also of one that was killed.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use serde_json::Value;

use super::Result;
use super::rules::list_json;

/// The contents of a table's sets.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Interfaces whose forwarding was switched on.
    pub(super) uplinks: Vec<String>,
    /// By number of the container: the addresses that pass because a name has them, the name,
    /// and the seconds for which they go on to (0: for open connections only).
    pub(super) named: HashMap<u32, Vec<(Ipv4Addr, Option<String>, u64)>>,
}

impl Memory {
    /// Reads a table that is there.
    pub(super) fn read(table: &str) -> Result<Self> {
        let listing = list_json(&["-j", "list", "table", "inet", table])?;
        Ok(Self::of(&listing))
    }

    fn of(listing: &[Value]) -> Self {
        let mut memory = Self::default();
        for set in listing.iter().filter_map(|entry| entry.get("set")) {
            let name = set.get("name").and_then(Value::as_str).unwrap_or_default();
            let elements = set.get("elem").and_then(Value::as_array);
            let elements = elements.map(Vec::as_slice).unwrap_or_default();
            let number = |stem: &str| name.strip_prefix(stem)?.parse::<u32>().ok();
            if name == "uplinks" {
                memory.uplinks = elements.iter().filter_map(text).collect();
            } else if let Some(number) = number("named").or_else(|| number("past")) {
                let named = elements.iter().filter_map(named);
                memory.named.entry(number).or_default().extend(named);
            }
        }
        memory
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn ip(value: &Value) -> Option<Ipv4Addr> {
    value.as_str()?.parse().ok()
}

/// An element with or without a comment and a time.
fn named(element: &Value) -> Option<(Ipv4Addr, Option<String>, u64)> {
    let Some(inner) = element.get("elem") else { return Some((ip(element)?, None, 0)) };
    let seconds = inner.get("expires").and_then(Value::as_u64).unwrap_or(0);
    Some((ip(inner.get("val")?)?, inner.get("comment").and_then(text), seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_as_nft_writes_it() {
        let listing = serde_json::json!([
            { "metainfo": { "version": "1.0.6" } },
            { "set": { "name": "uplinks", "elem": ["eth0"] } },
            { "set": { "name": "named5", "elem": [
                { "elem": { "val": "192.0.2.1", "timeout": 300, "expires": 299,
                            "comment": "a.example" } },
                { "elem": { "val": "192.0.2.2", "timeout": 300, "expires": 7 } },
            ] } },
            { "set": { "name": "past5", "elem": ["192.0.2.3"] } },
            { "set": { "name": "named6" } },
        ]);
        let memory = Memory::of(listing.as_array().expect("a list"));
        assert_eq!(memory.uplinks, ["eth0"]);
        let named = |last, name: Option<&str>, seconds| {
            (Ipv4Addr::new(192, 0, 2, last), name.map(str::to_owned), seconds)
        };
        let want = [named(1, Some("a.example"), 299), named(2, None, 7), named(3, None, 0)];
        assert_eq!(memory.named[&5], want);
    }
}
