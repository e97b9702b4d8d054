//! Images: asked for layer by layer, built once, followed by their log.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::Stream;
use model::output::Payload;
use model::spec::{BuildSpec, FunctionBuild, MountFile};
use model::{FunctionId, ImageId, MountId, SecretId};
use prost::Message;
use sha2::{Digest, Sha256};
use store::images::{self, Image, Phase};
use store::inputs::Carried;
use store::secrets::Secret;
use store::{Db, Hint, Tx, functions, image_names, mounts, secrets};
use wire::client as pb;

use super::gate::{Cx, Member};
use super::logs::{place, text};
use super::outcome::carried;
use super::poll::{self, Poll};
use super::refusal::Refusal;
use crate::Plane;
use crate::builder::{REGISTRY_PASSWORD, REGISTRY_USERNAME, registry_auth};
use crate::limits::{BUILD_CHAIN_MAX, LOG_ENTRIES_MAX, POLL_MAX};

/// What an image definition may say that cannot be had here.
fn refuse_unserved(image: &pb::Image) -> Result<(), Refusal> {
    let refuse = |field: &'static str, why: &str| Err(Refusal::invalid(field, why));
    if image
        .gpu_config
        .as_ref()
        .is_some_and(|gpu| gpu.count > 0 || !gpu.gpu_type.is_empty() || gpu.r#type != 0)
    {
        return refuse("image.gpu_config", "there is no GPU here to build with");
    }
    let older = "it is not read any more: use build_function";
    if !image.build_function_def.is_empty() {
        return refuse("image.build_function_def", older);
    }
    if image.build_function.is_some() && !image.dockerfile_commands.is_empty() {
        return refuse("image.build_function", "lines cannot stand beside it: use two images");
    }
    if !image.volume_mounts.is_empty() {
        return refuse("image.volume_mounts", "volumes are not served yet");
    }
    if !image.build_function_globals.is_empty() {
        return refuse("image.build_function_globals", older);
    }
    if !image.runtime.is_empty() || image.runtime_debug {
        return refuse("image.runtime", "the runtime cannot be chosen here");
    }
    if image.arch() == pb::Arch::Aarch64 {
        return refuse("image.arch", "this machine is x86_64 and cannot build for aarch64");
    }
    if image.base_images.len() > 1 {
        return refuse("image.base_images", "more than one base image is not served");
    }
    Ok(())
}

/// The secret that opens the registry, if one is needed.
async fn registry_secret(
    cx: &Cx<Member>,
    tx: &mut Tx,
    config: Option<&pb::ImageRegistryConfig>,
) -> Result<Option<Secret>, Refusal> {
    use pb::RegistryAuthType as Kind;
    let Some(config) = config else { return Ok(None) };
    let refuse = |why: &str| Err(Refusal::invalid("image.image_registry_config", why));
    match config.registry_auth_type() {
        Kind::Unspecified | Kind::Public if config.secret_id.is_empty() => return Ok(None),
        Kind::Public => return refuse("a public registry takes no secret: leave it out"),
        Kind::StaticCreds if config.secret_id.is_empty() => {
            return refuse("its secret is missing: name one");
        }
        Kind::Unspecified | Kind::StaticCreds => {}
        Kind::Aws => return refuse("logging in through AWS is not served: use from_registry"),
        Kind::Gcp => return refuse("logging in through GCP is not served: use from_registry"),
    }
    let id = SecretId::parse(&config.secret_id)?;
    let secret = secrets::get(tx, cx.scope(), &id).await?;
    let secret = secret.ok_or_else(|| Refusal::not_found("secret", &id))?;
    for name in [REGISTRY_USERNAME, REGISTRY_PASSWORD] {
        if !secret.env.contains_key(name) {
            return refuse(&format!("the secret lacks `{name}`: a registry is asked with both"));
        }
    }
    Ok(Some(secret))
}

/// The values that a build is told: they decide what comes of it, not under which ids they are
/// kept. A secret that is written into a program has another id each time that it runs.
#[derive(Default)]
struct Told {
    /// Variables of its commands.
    secrets: Vec<BTreeMap<String, String>>,
    /// The user's name and the password that open its registry.
    registry: Option<(String, String)>,
}

/// The function whose run makes the image, and its arguments.
async fn function_build(
    cx: &Cx<Member>,
    tx: &mut Tx,
    id: &str,
    build: Option<&pb::BuildFunction>,
) -> Result<Option<FunctionBuild>, Refusal> {
    let Some(build) = build else {
        if id.is_empty() {
            return Ok(None);
        }
        return Err(Refusal::invalid("image.build_function", "it is missing"));
    };
    let function = functions::get(tx, cx.scope(), &FunctionId::parse(id)?).await?;
    let builds =
        |function: &functions::Function| function.spec.as_ref().is_some_and(|spec| spec.builds);
    let function = function.filter(builds).ok_or_else(|| Refusal::not_found("function", id))?;
    let input = build.input.clone().unwrap_or_default();
    let (args, data_format) = match carried(input)? {
        Carried { args: Payload::Inline(args), data_format, .. } => (args, data_format),
        Carried { args: Payload::Blob(_), .. } => {
            let why = "it is too large: pass less to `run_function`";
            return Err(Refusal::invalid("image.build_function.input", why));
        }
    };
    Ok(Some(FunctionBuild { function: function.id, args, data_format }))
}

async fn build_spec(
    cx: &Cx<Member>,
    tx: &mut Tx,
    req: &pb::ImageGetOrCreateRequest,
    image: pb::Image,
) -> Result<(BuildSpec, Option<ImageId>, Told), Refusal> {
    let base = match image.base_images.first() {
        Some(base) => Some(find(cx, tx, &base.image_id).await?.id),
        None => None,
    };
    let context: Vec<MountFile> = match image.context_mount_id.as_str() {
        "" => Vec::new(),
        id => mounts::get(tx, cx.scope(), &MountId::parse(id)?)
            .await?
            .ok_or_else(|| Refusal::not_found("mount", id))?,
    };
    let (mut secret_ids, mut told) = (Vec::new(), Told::default());
    for id in &image.secret_ids {
        let id = SecretId::parse(id)?;
        let known = secrets::get(tx, cx.scope(), &id).await?;
        let secret = known.ok_or_else(|| Refusal::not_found("secret", &id))?;
        secret_ids.push(secret.id);
        told.secrets.push(secret.env);
    }
    let registry_secret = registry_secret(cx, tx, image.image_registry_config.as_ref()).await?;
    let registry_id = registry_secret.as_ref().map(|secret| secret.id.clone());
    let auth = registry_secret.and_then(registry_auth);
    told.registry = auth.map(|auth| (auth.username, auth.password));
    let build = image.build_function.as_ref();
    let function = function_build(cx, tx, &req.build_function_id, build).await?;
    if function.is_some() && base.is_none() {
        return Err(Refusal::invalid("image.base_images", "a function builds on an image"));
    }
    let inline = image.context_files.into_iter().map(|file| (file.filename, file.data));
    let spec = BuildSpec {
        image: ImageId::new(cx.plane.bits()),
        base: None,
        commands: image.dockerfile_commands,
        build_args: image.build_args.into_iter().collect(),
        context,
        context_inline: inline.collect(),
        secrets: secret_ids,
        secret_env: Vec::new(),
        registry_secret: registry_id,
        registry_auth: None,
        force: req.force_build || req.ignore_cache,
        function,
    };
    Ok((spec, base, told))
}

/// Hash of all that decides an image's content. A function has another id each time that it is
/// defined; the client tells what counts of it.
fn key(
    spec: &BuildSpec,
    base: Option<&ImageId>,
    builder_version: &str,
    function: Option<&pb::BuildFunction>,
    told: &Told,
) -> Result<String, Refusal> {
    let BuildSpec { commands, build_args, context, context_inline, .. } = spec;
    let files = (context, context_inline);
    let told = (&told.secrets, &told.registry);
    let decides = (builder_version, base, commands, build_args, files, told);
    let text = serde_json::to_vec(&decides).map_err(Refusal::internal)?;
    let mut hasher = Sha256::new_with_prefix(text);
    if let Some(function) = function {
        hasher.update(function.encode_to_vec());
    }
    Ok(hex::encode(hasher.finalize()))
}

/// The image of that definition; it is built if it never was.
pub(super) async fn get_or_create(
    cx: Cx<Member>,
    mut req: pb::ImageGetOrCreateRequest,
) -> Result<pb::ImageGetOrCreateResponse, Refusal> {
    let image = req.image.take().ok_or_else(|| Refusal::invalid("image", "it is missing"))?;
    refuse_unserved(&image)?;
    let mut tx = cx.plane.store.begin().await?;
    let function = image.build_function.clone();
    let (spec, base, told) = build_spec(&cx, &mut tx, &req, image).await?;
    let key = key(&spec, base.as_ref(), &req.builder_version, function.as_ref(), &told)?;
    let known = match spec.force {
        true => {
            images::retire(&mut tx, cx.scope(), &key).await?;
            None
        }
        false => images::by_key(&mut tx, cx.scope(), &key).await?,
    };
    let image = match known {
        Some(image) => {
            if matches!(image.phase, Phase::Waiting | Phase::Building) {
                // Should the app of whoever asked before end, this one's function and secrets
                // make it.
                let force = image.build.force;
                let build = BuildSpec { image: image.id.clone(), force, ..spec };
                images::set_build(&mut tx, &image.id, &build).await?;
            }
            image
        }
        None => {
            let image = Image {
                id: spec.image.clone(),
                workspace: cx.scope().workspace.clone(),
                key,
                base,
                builder_version: req.builder_version,
                phase: Phase::Waiting,
                build: spec,
                content: None,
                failure: None,
                call: None,
                finished_at: None,
                created_at: cx.now(),
            };
            images::insert(&mut tx, &image).await?;
            tx.ring(Hint::Builds);
            image
        }
    };
    images::touch(&mut tx, &image.id, cx.now()).await?;
    tx.commit().await?;
    let result = (image.phase == Phase::Ready).then(success);
    let metadata = Some(metadata(&image));
    Ok(pb::ImageGetOrCreateResponse { image_id: image.id.into(), result, metadata })
}

pub(super) fn success() -> pb::GenericResult {
    let status = pb::generic_result::GenericStatus::Success as i32;
    pb::GenericResult { status, ..pb::GenericResult::default() }
}

/// What a client learns of an image that is ready.
pub(super) fn metadata(image: &Image) -> pb::ImageMetadata {
    let python = image.content.as_ref().and_then(|content| content.python);
    pb::ImageMetadata {
        python_version_info: python.map(|(major, minor)| format!("{major}.{minor}")),
        image_builder_version: Some(image.builder_version.clone()),
        ..pb::ImageMetadata::default()
    }
}

/// An image that exists.
pub(super) async fn from_id(
    cx: Cx<Member>,
    req: pb::ImageFromIdRequest,
) -> Result<pb::ImageFromIdResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let image = find(&cx, &mut db, &req.image_id).await?;
    let metadata = Some(metadata(&image));
    Ok(pb::ImageFromIdResponse { image_id: image.id.into(), metadata })
}

/// Deletes an image and its names. What runs goes on; nothing starts with it any more.
pub(super) async fn delete(cx: Cx<Member>, req: pb::ImageDeleteRequest) -> Result<(), Refusal> {
    let mut tx = cx.plane.store.begin().await?;
    let image = find(&cx, &mut tx, &req.image_id).await?;
    if !matches!(image.phase, Phase::Ready | Phase::Failed) {
        return Err(Refusal::Conflict(format!("image `{}` is being built: wait", image.id)));
    }
    image_names::forget(&mut tx, &image.id).await?;
    images::delete(&mut tx, &image.id, "it was deleted: build it again").await?;
    tx.commit().await?;
    Ok(())
}

/// Finds an image of the caller's.
pub(super) async fn find(cx: &Cx<Member>, db: &mut Db, id: &str) -> Result<Image, Refusal> {
    let image = images::get(db, cx.scope(), &ImageId::parse(id)?).await?;
    image.ok_or_else(|| Refusal::not_found("image", id))
}

/// The builds that led to an image, in their order. Their logs are found under the image's id.
pub(super) async fn build_chain(
    cx: Cx<Member>,
    req: pb::ImageBuildChainGetRequest,
) -> Result<pb::ImageBuildChainGetResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let mut image = find(&cx, &mut db, &req.image_id).await?;
    let mut build_steps = Vec::new();
    loop {
        let base = image.base.clone();
        build_steps.push(pb::ImageBuildStep {
            started_at: Some(timestamp(image.created_at.0)),
            // The millisecond in which it ended belongs to it.
            finished_at: Some(timestamp(image.finished_at.unwrap_or(cx.now()).0 + 1)),
            builder_app_id: String::new(),
            builder_task_id: image.id.to_string(),
            image_id: image.id.into(),
        });
        let Some(base) = base else { break };
        match images::get(&mut db, cx.scope(), &base).await? {
            Some(base) if build_steps.len() < BUILD_CHAIN_MAX => image = base,
            Some(_) | None => break,
        }
    }
    build_steps.reverse();
    Ok(pb::ImageBuildChainGetResponse { build_steps })
}

/// A moment in the wire's form.
pub(super) fn timestamp(ms: u64) -> prost_types::Timestamp {
    let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(ms % 1_000).unwrap_or(0) * 1_000_000;
    prost_types::Timestamp { seconds, nanos }
}

struct Follow {
    cx: Cx<Member>,
    id: ImageId,
    after: u64,
    quiet: bool,
    poll: Poll,
    done: bool,
}

/// Follows a build: what it prints after `last_entry_id`, then how it ended.
pub(super) async fn join(
    cx: Cx<Member>,
    req: pb::ImageJoinStreamingRequest,
) -> Result<impl Stream<Item = Result<pb::ImageJoinStreamingResponse, Refusal>> + use<>, Refusal> {
    let image = find(&cx, &mut *cx.plane.store.read().await?, &req.image_id).await?;
    let wait = Duration::try_from_secs_f32(req.timeout).unwrap_or(POLL_MAX).min(POLL_MAX);
    let after = place(&req.last_entry_id);
    let follow = Follow {
        quiet: image.phase == Phase::Ready && !req.include_logs_for_finished && after == 0,
        after,
        poll: Poll::begin(&cx.plane, Hint::Image(image.id.clone()), wait),
        cx,
        id: image.id,
        done: false,
    };
    Ok(poll::stream(follow))
}

impl poll::Follow for Follow {
    type Item = pb::ImageJoinStreamingResponse;

    fn is_done(&self) -> bool {
        self.done
    }

    fn poll(&mut self) -> (&mut Poll, &Plane) {
        (&mut self.poll, &self.cx.plane)
    }

    async fn look(&mut self) -> Result<Option<Self::Item>, Refusal> {
        let mut db = self.cx.plane.store.read().await?;
        // Read before the log: its last lines are written before its end is.
        let image = find(&self.cx, &mut db, self.id.as_str()).await?;
        if !self.quiet {
            let lines = images::logs(&mut db, &self.id, self.after, LOG_ENTRIES_MAX).await?;
            if let Some((last, _)) = lines.last() {
                self.after = *last;
                let task_logs = lines
                    .iter()
                    .map(|(_, data)| pb::TaskLogs {
                        data: text(data),
                        file_descriptor: pb::FileDescriptor::Stdout as i32,
                        ..pb::TaskLogs::default()
                    })
                    .collect();
                let entry_id = format!("{}-0", self.after);
                let message =
                    pb::ImageJoinStreamingResponse { task_logs, entry_id, ..Default::default() };
                return Ok(Some(message));
            }
        }
        let result = match image.phase {
            Phase::Waiting | Phase::Building => return Ok(None),
            Phase::Ready => success(),
            Phase::Failed => pb::GenericResult {
                status: pb::generic_result::GenericStatus::Failure as i32,
                exception: image.failure.clone().unwrap_or_default(),
                ..pb::GenericResult::default()
            },
        };
        self.done = true;
        let metadata = Some(metadata(&image));
        let entry_id = format!("{}-0", self.after);
        Ok(Some(pb::ImageJoinStreamingResponse {
            result: Some(result),
            entry_id,
            eof: true,
            metadata,
            ..Default::default()
        }))
    }
}
