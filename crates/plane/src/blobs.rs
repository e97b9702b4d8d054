//! Bytes by hash, and payloads by capability: who holds a blob's token may send or fetch it.

use std::io;

use bytes::Bytes;
use futures::Stream;
use model::TaskId;
use store::blobs::Blob;
use store::{inputs, tasks};
use tokio::fs::File;

use crate::Plane;
use crate::api::refusal::Refusal;

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

    /// The blob that a token opens for a caller. The door of a restricted container opens that
    /// container's own alone, the door of another one those of its workspace: what `BlobGet`
    /// would give it.
    async fn opened(&self, token: &str, task: Option<&TaskId>) -> Result<Blob, Refusal> {
        let unknown = || Refusal::NotFound("there is no such blob".into());
        let mut db = self.store.read().await?;
        let blob = store::blobs::by_token(&mut db, token).await?.ok_or_else(unknown)?;
        let Some(task) = task else { return Ok(blob) };
        let task = tasks::get_any(&mut db, task).await?.ok_or_else(unknown)?;
        let own = match task.restricted {
            true => {
                blob.task.as_ref() == Some(&task.id)
                    || inputs::task_has_blob(&mut db, &task.id, blob.id.as_str()).await?
            }
            false => blob.workspace == task.workspace,
        };
        if own { Ok(blob) } else { Err(unknown()) }
    }

    /// Takes the bytes of a blob that was announced.
    pub async fn upload<S>(
        &self,
        token: &str,
        task: Option<&TaskId>,
        body: S,
    ) -> Result<Uploaded, Refusal>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
    {
        let blob = self.opened(token, task).await?;
        if blob.sha256.is_some() {
            return Err(Refusal::Conflict("the blob is there already".into()));
        }
        let digest = blob.wanted_sha256.parse().map_err(Refusal::internal)?;
        let expected = ::blobs::Expected { digest: Some(digest), len: Some(blob.size_bytes) };
        let stored =
            self.blobs.put(body, expected).await.map_err(|error| refusal("body", error))?;
        let mut tx = self.store.begin().await?;
        store::blobs::complete(&mut tx, &blob.id, &stored.digest.to_string()).await?;
        tx.commit().await?;
        Ok(Uploaded { md5_hex: stored.md5_hex })
    }

    /// Opens the bytes of a blob: their number, and a file to read them from.
    pub async fn download(
        &self,
        token: &str,
        task: Option<&TaskId>,
    ) -> Result<(u64, File), Refusal> {
        let blob = self.opened(token, task).await?;
        let Some(sha256) = blob.sha256 else {
            return Err(Refusal::NotFound("the blob's bytes were never sent".into()));
        };
        let digest = sha256.parse().map_err(Refusal::internal)?;
        self.blobs.get(digest).await.map_err(|error| refusal("blob", error))
    }
}
