//! Outcomes: what became of an input, as the store keeps it and the caller sees it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::BlobId;

/// A payload: small ones travel in the message, large ones as a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// The bytes themselves.
    Inline(Bytes),
    /// A blob that holds them.
    Blob(BlobId),
}

impl Payload {
    /// An empty payload.
    pub fn empty() -> Self {
        Self::Inline(Bytes::new())
    }
}

/// How an input ended. The numbers are the wire's (`GenericResult.status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// The function returned.
    Success,
    /// The function raised, or its container died without a result.
    Failure,
    /// Cancelled, or its app was stopped.
    Terminated,
    /// It ran longer than its timeout.
    Timeout,
    /// Its container could not start.
    InitFailure,
    /// The server lost it too often.
    InternalFailure,
}

/// What became of an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// The result, or the pickled exception.
    pub data: Option<Payload>,
    /// How `data` is encoded: the wire's number (`DataFormat`).
    pub data_format: i32,
    /// The exception as text.
    pub exception: String,
    /// The traceback as text.
    pub traceback: String,
    /// The traceback as the client pickles it.
    pub serialized_tb: Bytes,
    /// Source lines that belong to it, as the client pickles them.
    pub tb_line_cache: Bytes,
}

impl Outcome {
    /// An end without data, told in words to whoever called.
    pub fn without_data(status: Status, exception: impl Into<String>) -> Self {
        Self {
            status,
            data: None,
            data_format: 0,
            exception: exception.into(),
            traceback: String::new(),
            serialized_tb: Bytes::new(),
            tb_line_cache: Bytes::new(),
        }
    }
}
