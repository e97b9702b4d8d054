//! What is done to a living sandbox beside orders, by parts of the server that the plane does not
//! know: the gateway opens its ports, the worker writes to its standard input and has the command
//! router.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use ipnet::IpNet;
use model::TaskId;
use model::sandbox::OpenPort;
use tonic::body::Body;

use crate::Plane;

/// A port that is to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The container.
    pub task: TaskId,
    /// The port in it, and how it is reached; nothing: the machine's port for connect tokens.
    pub port: Option<OpenPort>,
    /// Who may reach it; nobody is listed: anyone.
    pub inbound: Vec<IpNet>,
    /// The machine's port that it had before a restart of the server.
    pub host_port: Option<u16>,
}

/// A piece of standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The container.
    pub task: TaskId,
    /// The program that was started in it; none is the container's own.
    pub exec: Option<String>,
    /// Its number among the writes of one client, from 1: the same again is written once.
    pub index: u32,
    /// The bytes.
    pub data: Bytes,
    /// Nothing follows.
    pub eof: bool,
}

/// Why a program's stream was not reached: told to whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    /// It cannot be any more.
    #[error("{0}")]
    Closed(String),
    /// It may be when the same is asked again.
    #[error("{0}")]
    Later(String),
}

/// How far the standard output of a program in a sandbox was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Bytes that the furthest reader has taken.
    pub bytes: u64,
    /// How many read now.
    pub readers: usize,
}

/// The way to a living sandbox.
pub trait Reach: Send + Sync + std::fmt::Debug {
    /// Opens a port. Answers with the machine's.
    fn open(&self, wanted: Opening) -> BoxFuture<'_, io::Result<u16>>;

    /// Closes the ports of a container that has ended.
    fn close(&self, task: &TaskId);

    /// Writes to the standard input of the entrypoint, or of a program. One that is given up is
    /// gone on with when the same comes next.
    fn write(&self, piece: Piece) -> BoxFuture<'_, Result<(), Unreached>>;

    /// Asks the command router: a request as a client sends it, with a token for one container.
    fn ask(&self, request: Request<Body>) -> BoxFuture<'_, Response<Body>>;

    /// How far the standard output of a program was read.
    fn taken(&self, task: TaskId, exec: String) -> BoxFuture<'_, Result<Taken, Unreached>>;
}

impl Plane {
    /// Tells which way leads to sandboxes. Call it once, before workers join. Without it, ports of
    /// sandboxes are refused.
    pub fn set_reach(&self, reach: Arc<dyn Reach>) {
        if self.reach.set(reach).is_err() {
            tracing::error!("the way to sandboxes was told twice: the first one holds");
        }
    }
}
