//! The addresses that a container may not reach, in one place: the firewall and the resolver
//! refuse the same ones.

use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Subnet {
    base: Ipv4Addr,
    bits: u8,
}

impl Subnet {
    /// The range of `bits` leading bits around `address`; `None` if `bits` is above 32.
    #[must_use]
    pub const fn new(address: Ipv4Addr, bits: u8) -> Option<Self> {
        if bits > 32 {
            return None;
        }
        let base = Ipv4Addr::from_bits(address.to_bits() & mask(bits));
        Some(Self { base, bits })
    }

    /// The first address.
    #[must_use]
    pub const fn base(self) -> Ipv4Addr {
        self.base
    }

    /// The number of leading bits that its addresses share.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// Whether `address` lies in the range.
    #[must_use]
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.bits) == self.base.to_bits()
    }

    /// Whether the two ranges share an address.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// A text that is not an IPv4 range such as `10.0.0.0/8`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an ipv4 range such as 10.0.0.0/8")]
pub struct NotARange(String);

impl FromStr for Subnet {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        let wrong = || NotARange(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let address = address.parse().map_err(|_| wrong())?;
        let bits = bits.parse().map_err(|_| wrong())?;
        let range = Self::new(address, bits).ok_or_else(wrong)?;
        if range.base == address { Ok(range) } else { Err(wrong()) }
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl TryFrom<String> for Subnet {
    type Error = NotARange;

    fn try_from(text: String) -> Result<Self, NotARange> {
        text.parse()
    }
}

const fn mask(bits: u8) -> u32 {
    match bits {
        0 => 0,
        bits => u32::MAX << (32 - bits),
    }
}

const fn range(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Subnet {
    Subnet { base: Ipv4Addr::new(a, b, c, d), bits }
}

/// Ranges that no container reaches, whatever its policy names: this host, link-local and cloud
/// metadata services, multicast and reserved space.
pub const NEVER: &[Subnet] = &[
    range(0, 0, 0, 0, 8),
    range(127, 0, 0, 0, 8),
    range(169, 254, 0, 0, 16),
    // The metadata service of one cloud has a public address that only its machines reach.
    range(168, 63, 129, 16, 32),
    // The same of another, in shared address space.
    range(100, 100, 100, 200, 32),
    range(224, 0, 0, 0, 3),
];

/// Ranges that a container reaches only where its policy names an address of them: private
/// (RFC 1918), shared (RFC 6598), protocol assignments (RFC 6890) and benchmarks (RFC 2544).
pub const PRIVATE: &[Subnet] = &[
    range(10, 0, 0, 0, 8),
    range(100, 64, 0, 0, 10),
    range(172, 16, 0, 0, 12),
    range(192, 0, 0, 0, 24),
    range(192, 168, 0, 0, 16),
    range(198, 18, 0, 0, 15),
];

/// The ranges without those that lie in others of them: a firewall set takes no overlaps.
pub(super) fn merged(ranges: &[Subnet]) -> Vec<Subnet> {
    let mut widest_first = ranges.to_vec();
    widest_first.sort_by_key(|range| range.bits());
    let mut kept: Vec<Subnet> = Vec::new();
    for range in widest_first {
        if !kept.iter().any(|wider| wider.contains(range.base())) {
            kept.push(range);
        }
    }
    kept
}

/// Whether `address` is closed to every container.
#[must_use]
pub fn never(address: Ipv4Addr) -> bool {
    NEVER.iter().any(|range| range.contains(address))
}

/// Whether `address` is closed to a container whose policy does not name it.
#[must_use]
pub fn refused(address: Ipv4Addr) -> bool {
    never(address) || PRIVATE.iter().any(|range| range.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_special_addresses_are_refused_and_public_ones_are_not() {
        let closed = [
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "192.0.0.8",
        ];
        for text in closed {
            assert!(refused(text.parse().expect("address")), "{text}");
        }
        let open =
            ["1.1.1.1", "8.8.8.8", "100.63.255.255", "172.32.0.1", "203.0.113.9", "223.1.1.1"];
        for text in open {
            assert!(!refused(text.parse().expect("address")), "{text}");
        }
        assert!(!never("10.1.2.3".parse().expect("address")));
        assert!(never("169.254.169.254".parse().expect("address")));
    }

    #[test]
    fn ranges_overlap_both_ways_and_read_back() {
        let wide: Subnet = "10.0.0.0/8".parse().expect("range");
        let narrow: Subnet = "10.213.0.0/16".parse().expect("range");
        assert!(wide.overlaps(narrow) && narrow.overlaps(wide));
        assert!(!narrow.overlaps("10.214.0.0/16".parse().expect("range")));
        assert_eq!(narrow.to_string(), "10.213.0.0/16");
        let nested = ["10.213.0.0/16", "10.0.0.0/8", "192.0.2.0/24", "10.0.0.0/8"];
        let nested: Vec<Subnet> = nested.iter().map(|text| text.parse().expect("range")).collect();
        assert_eq!(merged(&nested), [wide, "192.0.2.0/24".parse().expect("range")]);
        for bad in ["10.0.0.1/8", "10.0.0.0", "10.0.0.0/33", "x/8"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}
