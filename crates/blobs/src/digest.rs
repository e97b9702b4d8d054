//! The name of some bytes: their sha256.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// A sha256, 32 bytes. Written and parsed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// A text that is not a sha256.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a sha256: 64 hexadecimal digits are wanted")]
pub struct DigestError {
    /// The start of the text as it was given (at most 80 characters).
    text: String,
}

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Takes 32 bytes that some hasher already computed.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; 32];
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(_) => Err(DigestError { text: text.chars().take(80).collect() }),
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Digest;

    #[test]
    fn empty_bytes_have_the_known_digest() {
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), text);
        assert_eq!(text.to_uppercase().parse::<Digest>().unwrap(), Digest::of(b""));
    }

    #[test]
    fn what_is_not_a_digest_is_refused_by_name() {
        for text in ["", "e3b0", "../../../etc/passwd", &"z".repeat(64), &"a".repeat(65)] {
            let error = text.parse::<Digest>().unwrap_err().to_string();
            assert!(error.contains("is not a sha256"), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn text_and_bytes_go_both_ways(bytes: [u8; 32]) {
            let digest = Digest::from_bytes(bytes);
            proptest::prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }
    }
}
