//! Who calls, and who may: the gates of the rpc table.
//!
//! A gate turns a [`Caller`] into the type that a handler wants, or into a refusal. The type ties
//! row and handler together: a handler that wants a `Task` behind `USER` does not compile.

use std::sync::Arc;

use model::{AppId, FunctionId, TaskId, Time};
use store::Scope;

use super::refusal::Refusal;
use crate::Plane;

/// Whoever sent a request, as the transport knows him.
#[derive(Debug, Clone)]
pub enum Caller {
    /// No identity, and why.
    Nobody(&'static str),
    /// A client with a valid token.
    User(User),
    /// A container.
    Task(Task),
    /// A container whose function has restricted access.
    Restricted(Task),
}

/// A client with a valid token.
#[derive(Debug, Clone)]
pub struct User {
    /// What it may see.
    pub scope: Scope,
}

/// A container, known by the socket that its request came through.
#[derive(Debug, Clone)]
pub struct Task {
    /// What its app may see.
    pub scope: Scope,
    /// Which container.
    pub id: TaskId,
    /// Its app.
    pub app: AppId,
    /// Its function.
    pub function: FunctionId,
    /// It reaches nothing but its own inputs and outputs.
    pub restricted: bool,
}

/// A client, or a container that acts for its app's owner.
#[derive(Debug, Clone)]
pub enum Member {
    /// A client.
    User(User),
    /// A container without restrictions.
    Task(Task),
}

/// Anyone with an identity.
#[derive(Debug, Clone)]
pub enum Known {
    /// A client.
    User(User),
    /// A container, restricted or not.
    Task(Task),
}

impl Known {
    /// The container that calls, if one does.
    pub fn task(&self) -> Option<&Task> {
        match self {
            Self::User(_) => None,
            Self::Task(task) => Some(task),
        }
    }
}

/// A caller whose lookups are bound to a workspace.
pub trait Scoped {
    /// What the caller may see.
    fn scope(&self) -> &Scope;
}

impl Scoped for User {
    fn scope(&self) -> &Scope {
        &self.scope
    }
}

impl Scoped for Task {
    fn scope(&self) -> &Scope {
        &self.scope
    }
}

impl Scoped for Member {
    fn scope(&self) -> &Scope {
        match self {
            Self::User(user) => &user.scope,
            Self::Task(task) => &task.scope,
        }
    }
}

impl Scoped for Known {
    fn scope(&self) -> &Scope {
        match self {
            Self::User(user) => &user.scope,
            Self::Task(task) => &task.scope,
        }
    }
}

/// A gate: its name in the table, and what it makes of a caller.
#[derive(Debug)]
pub struct Gate<C> {
    /// The name that stands in the rows.
    pub name: &'static str,
    /// Lets a caller in as what the handler wants to see.
    pub enter: fn(Caller) -> Result<C, Refusal>,
}

impl<C> Clone for Gate<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Gate<C> {}

/// What a restricted container hears at every closed row. The client turns it into its
/// `AuthError` with this text (status UNAUTHENTICATED, and only that one; modal 1.6.4).
pub const RESTRICTED: &str = "this function runs with restricted Modal access \
    (restrict_modal_access=True), which forbids it to use Modal resources or call the Modal API";

/// What a client without a valid identity hears.
fn nobody(why: &'static str) -> Refusal {
    Refusal::Unauthenticated(why.into())
}

fn restricted() -> Refusal {
    Refusal::Unauthenticated(RESTRICTED.into())
}

/// Anybody at all.
pub const ANYBODY: Gate<Caller> = Gate { name: "ANYBODY", enter: Ok };

/// Clients.
pub const USER: Gate<User> = Gate {
    name: "USER",
    enter: |caller| match caller {
        Caller::Nobody(why) => Err(nobody(why)),
        Caller::User(user) => Ok(user),
        Caller::Task(_) => {
            Err(Refusal::Denied("only a client with a token may call this, not a container".into()))
        }
        Caller::Restricted(_) => Err(restricted()),
    },
};

/// Clients, and containers that act for their app's owner.
pub const MEMBER: Gate<Member> = Gate {
    name: "MEMBER",
    enter: |caller| match caller {
        Caller::Nobody(why) => Err(nobody(why)),
        Caller::User(user) => Ok(Member::User(user)),
        Caller::Task(task) => Ok(Member::Task(task)),
        Caller::Restricted(_) => Err(restricted()),
    },
};

/// Containers without restrictions.
pub const TASK: Gate<Task> = Gate {
    name: "TASK",
    enter: |caller| match caller {
        Caller::Nobody(why) => Err(nobody(why)),
        Caller::User(_) => Err(only_containers()),
        Caller::Task(task) => Ok(task),
        Caller::Restricted(_) => Err(restricted()),
    },
};

/// Anyone with an identity.
pub const KNOWN: Gate<Known> = Gate {
    name: "KNOWN",
    enter: |caller| match caller {
        Caller::Nobody(why) => Err(nobody(why)),
        Caller::User(user) => Ok(Known::User(user)),
        Caller::Task(task) | Caller::Restricted(task) => Ok(Known::Task(task)),
    },
};

/// Containers, restricted or not.
pub const ANY_TASK: Gate<Task> = Gate {
    name: "ANY_TASK",
    enter: |caller| match caller {
        Caller::Nobody(why) => Err(nobody(why)),
        Caller::User(_) => Err(only_containers()),
        Caller::Task(task) | Caller::Restricted(task) => Ok(task),
    },
};

fn only_containers() -> Refusal {
    Refusal::Denied("only a container may call this, through its own socket".into())
}

/// What a request's headers say beside its identity.
#[derive(Debug, Clone, Default)]
pub struct Meta {
    /// Release of the client (`x-modal-client-version`).
    pub client_version: String,
    /// Whether the client has reached this server by a loopback name and takes plaintext for the
    /// command router then: modal for Python does from 1.5 on, others want TLS (or say so).
    pub takes_plain_router: bool,
    /// The key that all attempts of one logical call share (`x-idempotency-key`), after the
    /// container's id where one calls.
    pub idempotency_key: Option<String>,
}

/// What a handler gets: the plane, whom it serves, and what the headers say.
#[derive(Debug)]
pub struct Cx<C> {
    /// The plane.
    pub plane: Arc<Plane>,
    /// Whom it serves.
    pub caller: C,
    /// What the headers say.
    pub meta: Meta,
}

impl<C> Cx<C> {
    /// The present moment.
    pub fn now(&self) -> Time {
        self.plane.now()
    }
}

impl<C: Scoped> Cx<C> {
    /// What the caller may see.
    pub fn scope(&self) -> &Scope {
        self.caller.scope()
    }

    /// The key under which an answer is kept, if the client sent one. A container's key is its
    /// own: it cannot fetch an answer that was given to somebody else.
    pub fn replay_key(&self) -> Option<&str> {
        self.meta.idempotency_key.as_deref()
    }
}
