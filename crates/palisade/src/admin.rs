//! What is done to a data folder by its owner: at a server that runs, through a socket in the
//! folder; without one, by the command itself.
//!
//! The socket (`admin.sock`, for its owner alone) takes one request, a line of JSON, and answers
//! with lines of JSON: words about the progress, then what came of it.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use images::Builder;
use serde::{Deserialize, Serialize};
use store::Store;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream as AsyncStream};
use tokio::sync::mpsc;

use crate::data::Data;
use crate::say;

/// The socket's name in the data folder.
const SOCKET: &str = "admin.sock";

/// Bytes of a request.
const REQUEST_BYTES_MAX: u64 = 64 << 10;

/// How long the socket rests when it does not accept.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// Lines about the progress that wait to be written.
const LINES_MAX: usize = 64;

/// What is to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Take images out of a folder or an archive.
    ImportImages {
        /// Where it lies, from the root.
        path: PathBuf,
        /// The image's name, instead of its own.
        name: Option<String>,
        /// Take over what builds came to elsewhere, too.
        steps: bool,
    },
    /// Write images to an archive, with the notes of their builds.
    ExportImages {
        /// Where to, from the root.
        path: PathBuf,
        /// Which images; all where none is named.
        images: Vec<String>,
    },
    /// Take wheels of the client out of a folder.
    ImportClient {
        /// Where they lie, from the root.
        path: PathBuf,
    },
    /// Read every layer and compare it with its name.
    VerifyImages,
    /// Remove layers that were not used for the longest time.
    PruneImages {
        /// Bytes that may stay.
        keep_bytes: u64,
    },
}

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    /// A word about the progress.
    Log(String),
    /// It is done.
    Done(serde_json::Value),
    /// It failed.
    Failed(String),
}

/// What the work is done with.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) store: Store,
    pub(crate) builder: Builder,
    /// The worker's folder.
    pub(crate) worker: PathBuf,
}

impl Tools {
    async fn execute(
        &self,
        request: Request,
        log: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<serde_json::Value> {
        match request {
            Request::ImportImages { path, name, steps } => {
                let builder = self.builder.clone();
                tokio::task::block_in_place(|| {
                    let report = images::import(&builder, &path, name.as_deref(), steps, log)?;
                    let names: Vec<_> = report.images.into_iter().map(|(name, _)| name).collect();
                    Ok(serde_json::json!({ "names": names, "steps": report.steps }))
                })
            }
            Request::ExportImages { path, images } => self.export(path, images, log).await,
            Request::ImportClient { path } => tokio::task::block_in_place(|| {
                let wheels = images::import_wheels(self.builder.store(), &path, log)?;
                Ok(serde_json::json!({ "wheels": wheels }))
            }),
            Request::VerifyImages => tokio::task::block_in_place(|| self.verify(log)),
            Request::PruneImages { keep_bytes } => self.prune(keep_bytes).await,
        }
    }

    async fn export(
        &self,
        path: PathBuf,
        wanted: Vec<String>,
        log: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<serde_json::Value> {
        let all = store::images::list(&mut *self.store.read().await?, u32::MAX).await?;
        let mut exported = Vec::new();
        for image in all {
            let is_wanted = wanted.is_empty() || wanted.iter().any(|id| *id == image.id.as_str());
            let Some(content) = image.content.filter(|_| is_wanted) else { continue };
            let image = worker::image_of(&content).map_err(|why| anyhow!(why))?;
            exported.push(image);
        }
        if exported.is_empty() {
            bail!("there is no such image that is built: see `palisade image list`");
        }
        let store = self.builder.store();
        let layers = tokio::task::block_in_place(|| images::export(store, &exported, &path, log))?;
        Ok(serde_json::json!({ "path": path, "images": exported.len(), "layers": layers }))
    }

    fn verify(&self, log: &mut (dyn FnMut(&[u8]) + Send)) -> Result<serde_json::Value> {
        let store = self.builder.store();
        let (mut sound, mut changed) = (0, Vec::new());
        for digest in store.list()? {
            match store.verify(digest) {
                Ok(()) => sound += 1,
                // It was pruned meanwhile.
                Err(images::LayerError::NotFound { .. }) => {}
                Err(error) => {
                    log(format!("{error}\n").as_bytes());
                    changed.push(digest.to_string());
                }
            }
        }
        Ok(serde_json::json!({ "sound": sound, "changed": changed }))
    }

    async fn prune(&self, keep_bytes: u64) -> Result<serde_json::Value> {
        let kept = store::images::kept_layers(&mut *self.store.read().await?).await?;
        let standing = worker::layers_to_keep(&self.worker);
        let standing = standing.context("the layers under living sandboxes are not known")?;
        let kept = kept.iter().chain(&standing);
        let keep: HashSet<_> = kept.filter_map(|layer| layer.parse().ok()).collect();
        let layers = self.builder.store();
        let evicted = tokio::task::block_in_place(|| layers.evict(&keep, keep_bytes))?;
        let gone: Vec<String> = evicted.layers.iter().map(ToString::to_string).collect();
        let mut tx = self.store.begin().await?;
        let lost = store::images::lose(&mut tx, &gone).await?;
        tx.commit().await?;
        Ok(serde_json::json!({
            "layers": gone.len(), "images": lost, "freed_bytes": evicted.freed_bytes,
            "left_bytes": evicted.left_bytes,
        }))
    }
}

/// Where the owner reaches a server.
#[derive(Debug)]
pub(crate) struct Desk {
    listener: UnixListener,
}

impl Desk {
    /// Opens it in the data folder, which this process has locked.
    pub(crate) fn open(data: &Data) -> Result<Self> {
        Ok(Self { listener: UnixListener::from_std(data.listen(SOCKET)?)? })
    }

    /// Serves one request after the other until `closed`.
    pub(crate) async fn serve(self, tools: Tools, closed: impl Future<Output = ()>) {
        tokio::pin!(closed);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = &mut closed => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the admin socket does not accept");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let tools = tools.clone();
            let mut serving = tokio::spawn(async move {
                if let Err(error) = serve_one(&tools, stream).await {
                    tracing::warn!(%error, "a request at the admin socket was not answered");
                }
            });
            tokio::select! {
                _ = &mut serving => {}
                // What is half done leaves nothing: drafts are emptied at the next start.
                () = &mut closed => return serving.abort(),
            }
        }
    }
}

async fn serve_one(tools: &Tools, mut stream: AsyncStream) -> Result<()> {
    let mut text = String::new();
    let (read, mut write) = stream.split();
    tokio::io::BufReader::new(read.take(REQUEST_BYTES_MAX)).read_line(&mut text).await?;
    let (said, mut lines) = mpsc::channel::<String>(LINES_MAX);
    let work = async move {
        // A word that nobody reads any more is no loss; the work goes on.
        let mut log = move |words: &[u8]| {
            let _ = said.try_send(String::from_utf8_lossy(words).trim_end().to_owned());
        };
        let request = serde_json::from_str(&text).context("the request cannot be read")?;
        tools.execute(request, &mut log).await
    };
    let tell = async {
        while let Some(line) = lines.recv().await {
            let _ = write_line(&mut write, &Line::Log(line)).await;
        }
    };
    let (result, ()) = tokio::join!(work, tell);
    let last = match result {
        Ok(done) => Line::Done(done),
        Err(error) => Line::Failed(format!("{error:#}")),
    };
    write_line(&mut write, &last).await
}

async fn write_line(write: &mut (impl AsyncWriteExt + Unpin), line: &Line) -> Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(write.write_all(&text).await?)
}

/// Has a request done: by the server that uses the folder, else by this process. Prints words
/// about the progress to standard error.
pub(crate) fn ask(data: &Data, request: Request) -> Result<serde_json::Value> {
    if data.is_locked() {
        return ask_server(data, &request);
    }
    let data = Data::make(data.dir())?;
    let _lock = data.lock()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open(&data.path("palisade.db")).await?;
        let layers = Arc::new(images::LayerStore::open(data.path("worker/images"))?);
        let worker = data.path("worker");
        let tools = Tools { store: store.clone(), builder: Builder::new(layers), worker };
        let mut log = |words: &[u8]| progress(&String::from_utf8_lossy(words));
        let result = tools.execute(request, &mut log).await;
        store.close().await;
        result
    })
}

fn progress(words: &str) {
    let _ = writeln!(std::io::stderr(), "{}", words.trim_end());
}

fn ask_server(data: &Data, request: &Request) -> Result<serde_json::Value> {
    let mut stream = data.connect(SOCKET)?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?)? {
            Line::Log(words) => progress(&words),
            Line::Done(value) => return Ok(value),
            Line::Failed(why) => bail!(why),
        }
    }
    bail!("the server ended before it was done: do it again")
}

/// Prints what came of a request.
pub(crate) fn tell(value: &serde_json::Value, json: bool, text: impl FnOnce() -> String) {
    say(if json { value.to_string() } else { text() });
}
