//! Bytes by hash, and payloads by capability: who holds a blob's token may send or fetch it.

use std::io;

use bytes::Bytes;
use futures::Stream;
use model::{TaskId, WorkspaceId};
use store::blobs::Blob;
use store::inputs;
use tokio::fs::File;

use crate::Plane;
use crate::api::refusal::Refusal;

/// Through which door a blob is sent or fetched: the token is the permission, the door bounds it.
#[derive(Debug, Clone)]
pub enum Door {
    /// The server's port.
    Port,
    /// A container that acts for its app's owner: blobs of its workspace.
    Workspace(WorkspaceId),
    /// A restricted container: those that it made, and those that its inputs carry.
    Restricted(TaskId),
}

/// What became of an upload: the `ETag` that the client compares (hex MD5 of the body).
#[derive(Debug, Clone)]
pub struct Uploaded {
    /// MD5 of the body, lower-case hex.
    pub md5_hex: String,
}

fn refusal(field: &'static str, error: ::blobs::Error) -> Refusal {
    match error {
        ::blobs::Error::WrongDigest { .. } | ::blobs::Error::WrongLength { .. } => {
            Refusal::invalid(field, error.to_string())
        }
        ::blobs::Error::TooLarge { .. } | ::blobs::Error::Full { .. } => {
            Refusal::Exhausted(error.to_string())
        }
        ::blobs::Error::NotFound { .. } => Refusal::NotFound(error.to_string()),
        other => Refusal::internal(other),
    }
}

impl Plane {
    /// Keeps bytes under their hash, which they must have.
    pub(crate) async fn keep_bytes(
        &self,
        field: &'static str,
        sha256: &str,
        data: Bytes,
    ) -> Result<(), Refusal> {
        let digest = sha256
            .parse()
            .map_err(|e: ::blobs::DigestError| Refusal::invalid("sha256_hex", e.to_string()))?;
        let expected = ::blobs::Expected { digest: Some(digest), len: Some(data.len() as u64) };
        self.blobs.put_bytes(data, expected).await.map_err(|e| refusal(field, e))?;
        Ok(())
    }

    /// Whether bytes are still there, asked inside the transaction that begins to count on them:
    /// what is old is forgotten inside one, too.
    pub(crate) async fn check_kept(&self, sha256: &str) -> Result<(), Refusal> {
        let digest = sha256.parse().map_err(Refusal::internal)?;
        match self.blobs.stat(digest).await.map_err(|error| refusal("blob", error))? {
            Some(_) => Ok(()),
            None => Err(Refusal::Conflict("the bytes were just forgotten: send them again".into())),
        }
    }

    /// The blob that a token opens behind a door.
    async fn opened(&self, token: &str, door: &Door) -> Result<Blob, Refusal> {
        let unknown = || Refusal::NotFound("there is no such blob".into());
        let mut db = self.store.read().await?;
        let blob = store::blobs::by_token(&mut db, token).await?.ok_or_else(unknown)?;
        let own = match door {
            Door::Port => true,
            Door::Workspace(workspace) => blob.workspace == *workspace,
            Door::Restricted(task) => {
                blob.task.as_ref() == Some(task)
                    || inputs::task_has_blob(&mut db, task, blob.id.as_str()).await?
            }
        };
        if own { Ok(blob) } else { Err(unknown()) }
    }

    /// Takes the bytes of a blob that was announced. The same bytes again are the answer to a
    /// client that did not hear of its success: the hash that was announced admits no others.
    pub async fn upload<S>(&self, token: &str, door: &Door, body: S) -> Result<Uploaded, Refusal>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
    {
        let blob = self.opened(token, door).await?;
        let digest = blob.wanted_sha256.parse().map_err(Refusal::internal)?;
        let expected = ::blobs::Expected { digest: Some(digest), len: Some(blob.size_bytes) };
        let stored =
            self.blobs.put(body, expected).await.map_err(|error| refusal("body", error))?;
        let mut tx = self.store.begin().await?;
        self.check_kept(&stored.digest.to_string()).await?;
        store::blobs::complete(&mut tx, &blob.id, &stored.digest.to_string()).await?;
        tx.commit().await?;
        Ok(Uploaded { md5_hex: stored.md5_hex })
    }

    /// Opens the bytes of a blob: their number, and a file to read them from.
    pub async fn download(&self, token: &str, door: &Door) -> Result<(u64, File), Refusal> {
        let blob = self.opened(token, door).await?;
        let Some(sha256) = blob.sha256 else {
            return Err(Refusal::NotFound("the blob's bytes were never sent".into()));
        };
        let digest = sha256.parse().map_err(Refusal::internal)?;
        self.blobs.get(digest).await.map_err(|error| refusal("blob", error))
    }
}
