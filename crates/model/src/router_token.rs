//! Tokens for a container's command router: each opens one container, for a while.
//!
//! A token is a JSON Web Token (RFC 7519) signed with HMAC-SHA-256, because the client reads its
//! `exp` to know when to ask for another (modal 1.6.4).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::{TaskId, Time};

/// What signs tokens. Whoever has it can open every container.
#[derive(Clone)]
pub struct Key([u8; 64]);

impl Key {
    /// A key from random bytes of the caller's: as many as a block of SHA-256 has.
    pub const fn new(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    fn mac(&self, text: &str) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&self.0.into());
        mac.update(text.as_bytes());
        mac
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(***)")
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    /// The task.
    sub: TaskId,
    /// Seconds since the Unix epoch.
    exp: u64,
}

/// Why a token opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// It was not made by this server, or was changed.
    #[error("the token is not one of this server")]
    Foreign,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
}

/// `{"alg":"HS256","typ":"JWT"}`; a token with another head is not ours.
const HEAD: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// A token for `task` that ends at `expires_at`.
pub fn mint(key: &Key, task: &TaskId, expires_at: Time) -> String {
    let claims = Claims { sub: task.clone(), exp: expires_at.0.div_ceil(1_000) };
    let body = serde_json::to_vec(&claims).unwrap_or_default();
    let signed = format!("{HEAD}.{}", URL_SAFE_NO_PAD.encode(body));
    let signature = URL_SAFE_NO_PAD.encode(key.mac(&signed).finalize().into_bytes());
    format!("{signed}.{signature}")
}

/// The task that `token` opens.
///
/// # Errors
/// [`Invalid`].
pub fn verify(key: &Key, token: &str, now: Time) -> Result<TaskId, Invalid> {
    let (signed, signature) = token.rsplit_once('.').ok_or(Invalid::Foreign)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Invalid::Foreign)?;
    key.mac(signed).verify_slice(&signature).map_err(|_| Invalid::Foreign)?;
    let body = signed.strip_prefix(HEAD).and_then(|rest| rest.strip_prefix('.'));
    let body = URL_SAFE_NO_PAD.decode(body.ok_or(Invalid::Foreign)?);
    let claims: Claims = serde_json::from_slice(&body.map_err(|_| Invalid::Foreign)?)
        .map_err(|_| Invalid::Foreign)?;
    if now.0 / 1_000 >= claims.exp {
        return Err(Invalid::Expired);
    }
    Ok(claims.sub)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000_000);

    #[test]
    fn opens_its_task_until_it_expires() {
        let (key, task) = (Key::new([7; 64]), TaskId::new([1; 16]));
        let token = mint(&key, &task, Time(1_060_000));
        assert_eq!(verify(&key, &token, NOW), Ok(task));
        assert_eq!(verify(&key, &token, Time(1_060_000)), Err(Invalid::Expired));
        assert_eq!(verify(&Key::new([8; 64]), &token, NOW), Err(Invalid::Foreign));
    }

    #[test]
    fn any_changed_character_is_foreign() {
        let (key, task) = (Key::new([7; 64]), TaskId::new([1; 16]));
        let token = mint(&key, &task, Time(1_060_000));
        // The last character holds bits that stand for nothing.
        for at in 0..token.len() - 1 {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert_eq!(verify(&key, &changed, NOW), Err(Invalid::Foreign), "{at}: {changed}");
        }
        for junk in ["", ".", "..", "a.b.c", HEAD] {
            assert_eq!(verify(&key, junk, NOW), Err(Invalid::Foreign), "{junk}");
        }
    }

    #[test]
    fn a_token_without_a_signature_is_foreign() {
        let key = Key::new([7; 64]);
        let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
        let body = mint(&key, &TaskId::new([1; 16]), Time(1_060_000));
        let body = body.split('.').nth(1).expect("a body").to_owned();
        assert_eq!(verify(&key, &format!("{none}.{body}."), NOW), Err(Invalid::Foreign));
    }
}
