//! The rpc table: one row for each rpc, with who may call it and what answers. No row, no rpc.
//!
//! Rows are erased to bytes in, bytes out, so that the machinery around them is compiled once.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use prost::Message;
use tracing::Instrument;
use wire::rpc::{ServerStreaming, Unary};

use super::gate::{Caller, Cx, Gate, Meta};
use super::receipt::Receipt;
use super::refusal::Refusal;
use crate::Plane;

type Future1<T> = futures::future::BoxFuture<'static, Result<T, Refusal>>;
type Stream1 = BoxStream<'static, Result<Bytes, Refusal>>;
type Sealed = (Bytes, Receipt);
type UnaryFn = Box<dyn Fn(Arc<Plane>, Caller, Meta, Bytes) -> Future1<Sealed> + Send + Sync>;
type StreamFn = Box<dyn Fn(Arc<Plane>, Caller, Meta, Bytes) -> Future1<Stream1> + Send + Sync>;

/// What answers a row.
pub(crate) enum Answer {
    /// One message.
    Unary(UnaryFn),
    /// A stream of messages.
    Stream(StreamFn),
    /// Nothing, and why.
    Declined(&'static str),
}

/// A row.
pub struct Row {
    /// The rpc's name.
    pub name: &'static str,
    /// The name of its gate; `-` where it is declined.
    pub gate: &'static str,
    admits: Box<dyn Fn(Caller) -> Result<(), Refusal> + Send + Sync>,
    pub(crate) answer: Answer,
}

impl Row {
    /// Whether the gate lets a caller in; where it does not, what the caller hears.
    pub fn admits(&self, caller: Caller) -> Result<(), Refusal> {
        (self.admits)(caller)
    }

    /// Why the rpc is not served, where it is not.
    pub fn declined(&self) -> Option<&'static str> {
        match self.answer {
            Answer::Declined(reason) => Some(reason),
            Answer::Unary(_) | Answer::Stream(_) => None,
        }
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Row").field("name", &self.name).field("gate", &self.gate).finish()
    }
}

/// The table of one service: rows by their rpc's path.
#[derive(Debug, Default)]
pub struct RpcTable {
    service: &'static str,
    rows: BTreeMap<String, Row>,
}

fn decode<M: Message + Default>(name: &'static str, body: Bytes) -> Result<M, Refusal> {
    M::decode(body).map_err(|error| {
        Refusal::invalid("request", format!("it is not a valid {name} message ({error})"))
    })
}

fn all_known<R: Unary>(body: &Bytes) -> Result<(), Refusal> {
    let message = <R::Request as prost::Name>::full_name();
    let unknown = wire::unknown::fields(&message, body.clone())
        .map_err(|error| Refusal::invalid("request", error.to_string()))?;
    if unknown.is_empty() {
        return Ok(());
    }
    let why = format!(
        "this server does not know {}, so it cannot enforce it: use a client of a release that \
         the server knows, or leave it out",
        unknown.join(", ")
    );
    Err(Refusal::invalid("definition", why))
}

/// Runs a handler; a panic fails this request, not the process.
async fn guarded<T>(
    name: &'static str,
    work: impl Future<Output = Result<T, Refusal>> + Send,
) -> Result<T, Refusal> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            Err(Refusal::internal(format!("the handler of {name} panicked: {text}")))
        }
    }
}

/// An answer whose handler does not ask what became of it.
fn without_receipt<M>(response: M) -> (M, Receipt) {
    (response, Receipt::none())
}

impl RpcTable {
    /// An empty table of a service.
    pub fn new(service: &'static str) -> Self {
        Self { service, rows: BTreeMap::new() }
    }

    fn insert(mut self, row: Row) -> Self {
        let path = format!("/{}/{}", self.service, row.name);
        let name = row.name;
        assert!(self.rows.insert(path, row).is_none(), "{name} has two rows");
        self
    }

    /// A row that answers with one message.
    pub fn unary<R, C, F, Fut>(self, rpc: R, gate: Gate<C>, handler: F) -> Self
    where
        R: Unary,
        C: Send + 'static,
        F: Fn(Cx<C>, R::Request) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<R::Response, Refusal>> + Send,
    {
        self.unary_row(rpc, gate, handler, |_| Ok(()), without_receipt)
    }

    /// A row whose handler is told, through the receipt that it gives, whether its answer has left
    /// the server.
    pub fn receipt<R, C, F, Fut>(self, rpc: R, gate: Gate<C>, handler: F) -> Self
    where
        R: Unary,
        C: Send + 'static,
        F: Fn(Cx<C>, R::Request) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<(R::Response, Receipt), Refusal>> + Send,
    {
        self.unary_row(rpc, gate, handler, |_| Ok(()), |answer| answer)
    }

    /// A row of a request that defines something: a field that this release does not know could be
    /// a restriction that its author relies on, so it is refused by name (A13).
    pub fn definition<R, C, F, Fut>(self, rpc: R, gate: Gate<C>, handler: F) -> Self
    where
        R: Unary,
        C: Send + 'static,
        F: Fn(Cx<C>, R::Request) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<R::Response, Refusal>> + Send,
    {
        self.unary_row(rpc, gate, handler, all_known::<R>, without_receipt)
    }

    fn unary_row<R, C, F, Fut, O>(
        self,
        _rpc: R,
        gate: Gate<C>,
        handler: F,
        check: fn(&Bytes) -> Result<(), Refusal>,
        seal: fn(O) -> (R::Response, Receipt),
    ) -> Self
    where
        R: Unary,
        C: Send + 'static,
        F: Fn(Cx<C>, R::Request) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<O, Refusal>> + Send,
        O: 'static,
    {
        let call: UnaryFn = Box::new(move |plane, caller, meta, body| {
            let work = async move {
                let cx = Cx { plane, caller: (gate.enter)(caller)?, meta };
                check(&body)?;
                let (response, receipt) = seal(handler(cx, decode(R::NAME, body)?).await?);
                Ok((Bytes::from(response.encode_to_vec()), receipt))
            };
            guarded(R::NAME, work).instrument(tracing::debug_span!("rpc", name = R::NAME)).boxed()
        });
        let admits = Box::new(move |caller| (gate.enter)(caller).map(drop));
        self.insert(Row { name: R::NAME, gate: gate.name, admits, answer: Answer::Unary(call) })
    }

    /// A row that answers with a stream of messages.
    pub fn stream<R, C, F, Fut, S>(self, _rpc: R, gate: Gate<C>, handler: F) -> Self
    where
        R: ServerStreaming,
        C: Send + 'static,
        F: Fn(Cx<C>, R::Request) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<S, Refusal>> + Send,
        S: Stream<Item = Result<R::Response, Refusal>> + Send + 'static,
    {
        let call: StreamFn = Box::new(move |plane, caller, meta, body| {
            let work = async move {
                let cx = Cx { plane, caller: (gate.enter)(caller)?, meta };
                let stream = handler(cx, decode(R::NAME, body)?).await?;
                let encoded = stream.map(|m| m.map(|m| Bytes::from(m.encode_to_vec())));
                Ok(encoded.boxed())
            };
            guarded(R::NAME, work).instrument(tracing::debug_span!("rpc", name = R::NAME)).boxed()
        });
        let admits = Box::new(move |caller| (gate.enter)(caller).map(drop));
        self.insert(Row { name: R::NAME, gate: gate.name, admits, answer: Answer::Stream(call) })
    }

    /// Rows of rpcs that are not served, and why. Known callers hear the reason; a restricted
    /// container hears at once that it is restricted, like at every closed row.
    pub fn declined(mut self, reason: &'static str, names: &[&'static str]) -> Self {
        for &name in names {
            let admits = Box::new(|caller| (super::gate::MEMBER.enter)(caller).map(drop));
            self = self.insert(Row { name, gate: "-", admits, answer: Answer::Declined(reason) });
        }
        self
    }

    /// The row of a path, `/service/Method`.
    pub fn row(&self, path: &str) -> Option<&Row> {
        self.rows.get(path)
    }

    /// All rows, by name.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// Names of `all` that have no row.
    pub fn missing<'a>(&self, all: &[&'a str]) -> Vec<&'a str> {
        let have = |name: &str| self.rows.contains_key(&format!("/{}/{name}", self.service));
        all.iter().copied().filter(|name| !have(name)).collect()
    }
}
