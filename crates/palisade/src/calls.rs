//! Calls of the running server's own API, with the local token: what the client could do, the
//! command line does in the same way, through a socket in the data folder.

use std::io;

use anyhow::{Context, Result, anyhow};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use wire::client as pb;
use wire::rpc::{self, ServerStreaming, Unary};

use crate::data::Data;

/// The socket's name.
pub(crate) const SOCKET: &str = "api.sock";

/// A connection to the server.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    channel: Channel,
    metadata: MetadataMap,
}

impl Calls {
    /// Finds the server that uses the data folder.
    pub(crate) async fn open(data: &Data) -> Result<Self> {
        let access = data.access()?;
        let socket = data.clone();
        let connect = tower::service_fn(move |_: http::Uri| {
            let stream = socket.connect(SOCKET);
            async move {
                let stream = stream.map_err(io::Error::other)?;
                stream.set_nonblocking(true)?;
                Ok::<_, io::Error>(TokioIo::new(UnixStream::from_std(stream)?))
            }
        });
        // HTTP/2 wants a host, and there is none.
        let channel = Endpoint::from_static("http://server").connect_with_connector(connect).await;
        let channel = channel.context("the server does not answer at its socket")?;
        let mut metadata = MetadataMap::new();
        metadata.insert("x-modal-token-id", access.token_id.parse()?);
        metadata.insert("x-modal-token-secret", access.token_secret.parse()?);
        Ok(Self { channel, metadata })
    }

    /// Calls an rpc.
    pub(crate) async fn call<R: Unary>(&self, request: R::Request) -> Result<R::Response> {
        self.ask::<R>(request).await.map_err(|status| refused(&status))
    }

    /// Calls an rpc, whose refusal is not an error for the user.
    pub(crate) async fn ask<R: Unary>(&self, request: R::Request) -> Result<R::Response, Status> {
        let answer = rpc::call::<R>(self.channel.clone(), self.metadata.clone(), request).await;
        Ok(answer?.into_inner())
    }

    /// Calls an rpc that answers with a stream.
    pub(crate) async fn stream<R: ServerStreaming>(
        &self,
        request: R::Request,
    ) -> Result<Streaming<R::Response>> {
        let answer = rpc::stream::<R>(self.channel.clone(), self.metadata.clone(), request).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
    }

    /// The command router, for one sandbox: the connection, and the sandbox's container.
    pub(crate) async fn router(&self, sandbox_id: &str) -> Result<(Self, String)> {
        use pb::sandbox_get_command_router_access_request::Target;
        let target = Some(Target::SandboxId(sandbox_id.to_owned()));
        let request = pb::SandboxGetCommandRouterAccessRequest { target };
        let access = self.call::<rpc::client::SandboxGetCommandRouterAccess>(request).await?;
        let request = pb::SandboxGetTaskIdRequest {
            sandbox_id: sandbox_id.to_owned(),
            ..pb::SandboxGetTaskIdRequest::default()
        };
        let container = self.call::<rpc::client::SandboxGetTaskIdV2>(request).await?.task_id;
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", format!("Bearer {}", access.jwt).parse()?);
        let router = Self { channel: self.channel.clone(), metadata };
        Ok((router, container.unwrap_or_default()))
    }

    /// The names of all environments.
    pub(crate) async fn environments(&self) -> Result<Vec<String>> {
        let answer = self.call::<rpc::client::EnvironmentList>(()).await?;
        Ok(answer.items.into_iter().map(|environment| environment.name).collect())
    }

    /// The sandboxes of all environments, newest first in each; ended ones too, if wanted.
    pub(crate) async fn sandboxes(&self, ended: bool) -> Result<Vec<pb::SandboxInfo>> {
        let mut all = Vec::new();
        for environment_name in self.environments().await? {
            let mut request = pb::SandboxListRequest {
                environment_name,
                include_finished: ended,
                ..pb::SandboxListRequest::default()
            };
            loop {
                let page = self.call::<rpc::client::SandboxListV2>(request.clone()).await?;
                let Some(last) = page.sandboxes.last() else { break };
                request.before_timestamp = last.created_at;
                all.extend(page.sandboxes);
            }
        }
        Ok(all)
    }
}

/// What the server said, without the form in which it said it.
pub(crate) fn refused(status: &Status) -> anyhow::Error {
    anyhow!("{}", status.message())
}
