//! Refusals: the only errors that cross the protocol. Their texts are written for the person at
//! the Python prompt; the client shows them word for word.

use tonic::Status;

use crate::sandboxes::Unreached;

/// Why a request gets no answer.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing in the caller's workspace.
    #[error("{0}")]
    NotFound(String),
    /// A field is wrong.
    #[error("{field}: {why}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong, and what to do.
        why: String,
    },
    /// It is there already.
    #[error("{0}")]
    Exists(String),
    /// It does not fit the present state.
    #[error("{0}")]
    Conflict(String),
    /// A limit is reached.
    #[error("{0}")]
    Exhausted(String),
    /// No identity, or a restricted container at a closed row.
    #[error("{0}")]
    Unauthenticated(String),
    /// The identity may not do this.
    #[error("{0}")]
    Denied(String),
    /// Nothing serves this.
    #[error("{0}")]
    Unserved(String),
    /// The time is up.
    #[error("{0}")]
    TooLate(String),
    /// It cannot be done now: ask again.
    #[error("{0}")]
    Unavailable(String),
    /// What another service of ours has said.
    #[error("{}", .0.message())]
    Passed(Box<Status>),
    /// A fault of ours: the chain goes to the log, the caller gets a reference.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Refusal {
    /// A wrong field, named.
    pub fn invalid(field: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid { field, why: why.into() }
    }

    /// A thing that is not there, named.
    pub fn not_found(kind: &str, id: impl std::fmt::Display) -> Self {
        Self::NotFound(format!("{kind} `{id}` not found"))
    }

    /// A fault of ours.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(source.into())
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Passed(Box::new(status))
    }
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Full => Self::Exhausted(error.to_string()),
            other => Self::internal(other),
        }
    }
}

impl From<Unreached> for Refusal {
    fn from(why: Unreached) -> Self {
        match why {
            Unreached::Closed(text) => Self::Conflict(text),
            Unreached::Later(text) => Self::Unavailable(text),
        }
    }
}

impl From<model::ids::InvalidId> for Refusal {
    fn from(error: model::ids::InvalidId) -> Self {
        Self::NotFound(error.to_string())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::NotFound(_) => Self::not_found(text),
            Refusal::Invalid { .. } => Self::invalid_argument(text),
            Refusal::Exists(_) => Self::already_exists(text),
            Refusal::Conflict(_) => Self::failed_precondition(text),
            Refusal::Exhausted(_) => Self::resource_exhausted(text),
            Refusal::Unauthenticated(_) => Self::unauthenticated(text),
            Refusal::Denied(_) => Self::permission_denied(text),
            Refusal::Unserved(_) => Self::unimplemented(text),
            Refusal::TooLate(_) => Self::deadline_exceeded(text),
            Refusal::Unavailable(_) => Self::unavailable(text),
            Refusal::Passed(status) => *status,
            Refusal::Internal(source) => {
                let reference: u32 = rand::random();
                tracing::error!(
                    reference = format!("{reference:08x}"),
                    error = %chain(source.as_ref()),
                    "a request failed through a fault of the server"
                );
                Self::internal(format!(
                    "the server failed; its log tells why under the reference {reference:08x}"
                ))
            }
        }
    }
}

/// An error with its causes, on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
