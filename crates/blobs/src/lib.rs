//! Content-addressed bytes: what goes in is known by its sha256, and comes out as it went in.
//!
//! There is one store so far, a local directory ([`Local`]). A trait arrives with its second
//! implementation.

mod digest;
mod limits;
mod local;

pub use digest::{Digest, DigestError};
pub use limits::BLOB_BYTES_MAX;
pub use local::{Error, Expected, Local, Stored};
