//! Calls of the running server's own API, with the local token: what the client could do, the
//! command line does in the same way.

use anyhow::{Context, Result, anyhow, bail};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use wire::client as pb;
use wire::rpc::{self, ServerStreaming, Unary};

use crate::data::Data;

/// A connection to the server.
#[derive(Debug)]
pub(crate) struct Calls {
    channel: Channel,
    metadata: MetadataMap,
}

impl Calls {
    /// Finds the server that uses the data folder.
    pub(crate) async fn open(data: &Data) -> Result<Self> {
        let access = data.access()?;
        let url = access.server_url;
        if !url.starts_with("http://") {
            bail!("the server at {url} takes TLS alone, which this command does not speak yet");
        }
        let endpoint = tonic::transport::Endpoint::from_shared(url.clone())?;
        let channel = endpoint.connect().await;
        let channel = channel.with_context(|| format!("the server does not answer at {url}"))?;
        let mut metadata = MetadataMap::new();
        metadata.insert("x-modal-token-id", access.token_id.parse()?);
        metadata.insert("x-modal-token-secret", access.token_secret.parse()?);
        Ok(Self { channel, metadata })
    }

    /// Calls an rpc.
    pub(crate) async fn call<R: Unary>(&self, request: R::Request) -> Result<R::Response> {
        let answer = rpc::call::<R>(self.channel.clone(), self.metadata.clone(), request).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
    }

    /// Calls an rpc that answers with a stream.
    pub(crate) async fn stream<R: ServerStreaming>(
        &self,
        request: R::Request,
    ) -> Result<Streaming<R::Response>> {
        let answer = rpc::stream::<R>(self.channel.clone(), self.metadata.clone(), request).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
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
