//! Image builds: the recipe's steps, each in a container of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use images::{Context, ContextFile, ContextTree, Credentials, Request, Secrets};
use model::ImageId;
use model::link::Report;
use model::spec::{BuildSpec, ImageContent};
use tokio::sync::mpsc;
use tracing::Instrument;

use crate::limits::STEP_MAX;
use crate::steps::Steps;
use crate::{Worker, roots};

/// Pieces of a build's log that wait to be reported.
const LOG_PIECES_MAX: usize = 256;

/// Builds an image and reports what came of it.
pub(crate) async fn run(worker: Arc<Worker>, spec: BuildSpec) {
    let image = spec.image.clone();
    let span = tracing::info_span!("build", image = %image);
    let result = build(worker.clone(), spec).instrument(span).await;
    worker.report(Report::Built { image, result }).await;
}

async fn build(worker: Arc<Worker>, spec: BuildSpec) -> Result<ImageContent, String> {
    let _turn = worker.builds.acquire().await.map_err(|_| "the worker is ending".to_owned())?;
    let (say, mut said) = mpsc::channel::<Bytes>(LOG_PIECES_MAX);
    let image = spec.image.clone();
    let reporting = async {
        while let Some(data) = said.recv().await {
            report_log(&worker, &image, data).await;
        }
    };
    let working = {
        let worker = worker.clone();
        tokio::task::spawn_blocking(move || {
            // The log's reader ends only after this, so a piece that is not taken is no loss.
            let mut log = |data: &[u8]| drop(say.blocking_send(Bytes::copy_from_slice(data)));
            blocking(&worker, &spec, &mut log)
        })
    };
    let (result, ()) = tokio::join!(working, reporting);
    result.map_err(|_| "the build failed through a fault of the server".to_owned())?
}

async fn report_log(worker: &Worker, image: &ImageId, data: Bytes) {
    worker.report(Report::BuildLog { image: image.clone(), data }).await;
}

fn blocking(
    worker: &Worker,
    spec: &BuildSpec,
    log: &mut dyn FnMut(&[u8]),
) -> Result<ImageContent, String> {
    let text = |error: &dyn std::error::Error| crate::task::chain(error);
    let recipe = images::recipe::parse(&spec.commands).map_err(|e| text(&e))?;
    let mut bases = BTreeMap::new();
    if let Some(base) = &spec.base {
        bases.insert("base".to_owned(), roots::image(base).map_err(|e| text(&e))?);
    }
    let credentials = spec.registry_auth.as_ref().map(|auth| {
        let (username, password) = (auth.username.clone(), auth.password.clone());
        Credentials { username, password }
    });
    let request = Request {
        recipe: &recipe,
        bases: &bases,
        context: &context(worker, spec)?,
        args: &spec.build_args.iter().cloned().collect(),
        secrets: &Secrets(spec.secret_env.clone()),
        credentials: credentials.as_ref(),
        is_forced: spec.force,
        step_timeout: Some(STEP_MAX),
    };
    let runner = Steps::new(worker, spec.image.as_str());
    let mut image = worker.builder.build(&request, &runner, log).map_err(|e| text(&e))?;
    worker.builder.inspect(&mut image).map_err(|e| text(&e))?;
    roots::content(&image).map_err(|e| text(&e))
}

/// The build context: files that the client sent.
fn context(worker: &Worker, spec: &BuildSpec) -> Result<Context, String> {
    let mut files = Vec::new();
    let mut tree = None;
    for file in &spec.context {
        if let Some(name) = &file.tree {
            let folder = worker.config.pythons.join(name).join("tree");
            let digest = file.sha256.parse().map_err(|e: blobs::DigestError| e.to_string())?;
            tree = Some(ContextTree { name: format!("the mount {name}"), folder, digest });
            continue;
        }
        let entry = worker.entry(file).map_err(|e| crate::task::chain(&e))?;
        let images::EntryKind::File(source) = entry.kind else { continue };
        let digest = file.sha256.parse().map_err(|e: blobs::DigestError| e.to_string())?;
        files.push(ContextFile { path: file.path.clone(), source, digest, mode: entry.mode });
    }
    for (path, data) in &spec.context_inline {
        files.push(ContextFile::of_bytes(path, data));
    }
    let context = Context::new(files);
    Ok(match tree {
        Some(tree) => context.with_tree(tree),
        None => context,
    })
}
