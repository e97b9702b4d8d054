//! Typed ids: a two-letter prefix that says what it names, a dash, and 128 random bits in base 62.
//!
//! The prefixes are the client's: it refuses an answer whose id has another one
//! (seen with `ap-`, `fu-`, `fc-`; modal 1.6.4).

use std::fmt;

use serde::{Deserialize, Serialize};

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Characters after the dash: 62^22 > 2^128.
pub const ID_CHARS: usize = 22;

/// A text that is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {kind} id: it looks like `{prefix}-…`, letters and digits only")]
pub struct InvalidId {
    text: String,
    kind: &'static str,
    prefix: &'static str,
}

/// Writes 128 random bits as 22 base-62 characters.
fn base62(bits: [u8; 16]) -> String {
    let mut n = u128::from_be_bytes(bits);
    let mut chars = [b'0'; ID_CHARS];
    for slot in chars.iter_mut().rev() {
        *slot = ALPHABET[(n % 62) as usize];
        n /= 62;
    }
    chars.iter().map(|&c| c as char).collect()
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The prefix, without its dash.
            pub const PREFIX: &'static str = $prefix;

            /// A new id from 128 random bits of the caller's.
            pub fn new(bits: [u8; 16]) -> Self {
                Self(format!("{}-{}", $prefix, base62(bits)))
            }

            /// Reads an id that came from outside; its length is not checked, its letters are.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let rest = text.strip_prefix(concat!($prefix, "-")).unwrap_or("");
                let fits = !rest.is_empty()
                    && rest.len() <= 64
                    && rest.bytes().all(|c| c.is_ascii_alphanumeric());
                if fits {
                    Ok(Self(text.to_owned()))
                } else {
                    let text = text.chars().take(80).collect();
                    Err(InvalidId { text, kind: $kind, prefix: $prefix })
                }
            }

            /// The id as it stands on the wire and in the store.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    )*};
}

ids! {
    /// Who owns things: every lookup is bound to one workspace.
    WorkspaceId, "wo", "a workspace";
    /// A named space inside a workspace.
    EnvironmentId, "en", "an environment";
    /// An app: a set of functions that live and end together.
    AppId, "ap", "an app";
    /// A function, or a class' service function, or a bound variant of one.
    FunctionId, "fu", "a function";
    /// A class.
    ClassId, "cs", "a class";
    /// One call of a function, with one input or many.
    CallId, "fc", "a function call";
    /// One input of a call.
    InputId, "in", "an input";
    /// One container's life.
    TaskId, "ta", "a task";
    /// A container that a client holds in its hand.
    SandboxId, "sb", "a sandbox";
    /// An image or one layer of it, as the client builds them.
    ImageId, "im", "an image";
    /// A set of files that is laid into containers.
    MountId, "mo", "a mount";
    /// A payload that travels over HTTP.
    BlobId, "bl", "a blob";
    /// A set of environment variables.
    SecretId, "st", "a secret";
    /// A dictionary.
    DictId, "di", "a dict";
    /// A queue.
    QueueId, "qu", "a queue";
    /// A machine that runs tasks.
    WorkerId, "wk", "a worker";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_refuse_others() {
        let id = AppId::new([0xff; 16]);
        assert_eq!(id.as_str().len(), 3 + ID_CHARS);
        assert_eq!(AppId::parse(id.as_str()).unwrap(), id);
        for bad in ["", "ap-", "fu-abc", "ap-a/b", "ap-a b", "apabc"] {
            assert!(AppId::parse(bad).is_err(), "{bad}");
        }
        assert_ne!(AppId::new([1; 16]), AppId::new([2; 16]));
    }
}
