//! Specifications: what a function is, and what a container is to be. Plain data.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::resources::{Limits, ResourceWish};
use crate::retry::RetryPolicy;
use crate::{AppId, FunctionId, ImageId, Millis, MountId, SecretId, TaskId};

/// A function as its definition asks for it, checked: whatever stands here is enforced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionSpec {
    /// Its tag in the app.
    pub name: String,
    /// It yields many values, each of which travels on its own.
    pub generator: bool,
    /// Its containers reach nothing but their own inputs and outputs.
    pub restricted: bool,
    /// Results must not be pickles (the caller would unpickle what untrusted code wrote).
    pub restrict_output: bool,
    /// Its containers have no network but `lo`.
    pub block_network: bool,
    /// Each container takes one input and ends.
    pub single_use: bool,
    /// Its run makes an image: what its container leaves in its files becomes a layer.
    #[serde(default)]
    pub builds: bool,
    /// The image its containers run.
    pub image: ImageId,
    /// Files laid over the image.
    pub mounts: Vec<MountId>,
    /// Environment variables, later ones win.
    pub secrets: Vec<SecretId>,
    /// What it asks for.
    pub resources: ResourceWish,
    /// How long one attempt may run.
    pub timeout_ms: Millis,
    /// How long a container may take until it is ready.
    pub startup_timeout_ms: Millis,
    /// What happens after a failure.
    pub retry: RetryPolicy,
    /// How many containers there are.
    pub scaling: Scaling,
    /// Inputs that one container works on at the same time.
    pub concurrency: Concurrency,
}

/// How many containers a function has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaling {
    /// Kept even without inputs.
    pub min_containers: u32,
    /// Never more.
    pub max_containers: u32,
    /// Kept idle beside the busy ones while there are inputs.
    pub buffer_containers: u32,
    /// An idle container ends after this long.
    pub scaledown_window_ms: Millis,
}

/// Inputs that one container takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    /// At the same time, at most.
    pub max_inputs: u32,
    /// At the same time, before another container is wanted.
    pub target_inputs: u32,
    /// In one batch, at most; 0 where the function takes single inputs.
    pub batch_max: u32,
    /// How long a batch waits to be full.
    pub batch_linger_ms: Millis,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self { max_inputs: 1, target_inputs: 1, batch_max: 0, batch_linger_ms: Millis(0) }
    }
}

impl Concurrency {
    /// Inputs that one container is expected to hold.
    pub fn per_container(&self) -> u32 {
        self.target_inputs.max(self.batch_max).max(1)
    }

    /// Inputs that one container may hold at the same time, at most.
    pub fn room(&self) -> u32 {
        self.max_inputs.max(1).saturating_mul(self.batch_max.max(1))
    }
}

/// A file that is laid into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountFile {
    /// Absolute path inside.
    pub path: String,
    /// SHA-256 of its content, lower-case hex.
    pub sha256: String,
    /// Permission bits; none where the client said nothing.
    pub mode: Option<u32>,
    /// Where it is no file that a client sent: the name of a tree that the operator imported,
    /// which is there as a whole. The hash is then that of its archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<String>,
}

/// What an image is, once it is built.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageContent {
    /// Layer digests (SHA-256, lower-case hex), bottom first.
    pub layers: Vec<String>,
    /// The image's configuration as JSON of the `images` crate: the plane carries it unread.
    pub config: String,
    /// Minor version of the Python inside (`(3, 11)`), where there is one.
    pub python: Option<(u8, u8)>,
}

/// Which network a container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Nothing but `lo`.
    Blocked,
    /// The internet, but neither the host nor private ranges nor neighbours.
    Open,
}

/// The client package that a function container needs to understand its server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClientPackage {
    /// Release of the client, e.g. `1.6.4`.
    pub version: String,
    /// Builder version whose pins its dependencies follow, e.g. `2025.06`.
    pub builder_version: String,
}

/// Everything a worker needs to run one container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The container's id.
    pub task: TaskId,
    /// The app it belongs to.
    pub app: AppId,
    /// The function it runs.
    pub function: FunctionId,
    /// The image's id, for the container's environment.
    pub image_id: ImageId,
    /// The image.
    pub image: ImageContent,
    /// Files laid over it.
    pub files: Vec<MountFile>,
    /// The client package laid over it.
    pub client: ClientPackage,
    /// Environment variables of secrets and of the platform; they win over the image's.
    pub env: Vec<(String, String)>,
    /// The client's own description of the task (an encoded `ContainerArguments`).
    pub arguments: Bytes,
    /// Which network it has.
    pub network: Network,
    /// What it is held to.
    pub limits: Limits,
    /// What it leaves in its files becomes a layer over its image, once it has ended well.
    pub keeps_files: bool,
}

/// A user's name and password at a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryAuth {
    /// The user's name.
    pub username: String,
    /// The password, or a token in its place.
    pub password: String,
}

impl std::fmt::Debug for RegistryAuth {
    /// Says that there is one, and nothing of it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegistryAuth(***)")
    }
}

/// One step of an image: what to do on top of which image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSpec {
    /// The image to be made.
    pub image: ImageId,
    /// What `FROM base` stands for.
    pub base: Option<ImageContent>,
    /// Dockerfile lines.
    pub commands: Vec<String>,
    /// Values of `ARG`.
    pub build_args: Vec<(String, String)>,
    /// The build context: files by their path.
    pub context: Vec<MountFile>,
    /// Small files of the context that came with the definition: path and content.
    pub context_inline: Vec<(String, Bytes)>,
    /// Secrets whose variables are there for `RUN` steps only.
    pub secrets: Vec<SecretId>,
    /// Those variables; filled in for the worker, never stored.
    #[serde(skip)]
    pub secret_env: Vec<(String, String)>,
    /// The secret with what opens the private registry of `FROM`.
    #[serde(default)]
    pub registry_secret: Option<SecretId>,
    /// What opens it; filled in for the worker, never stored.
    #[serde(skip)]
    pub registry_auth: Option<RegistryAuth>,
    /// Build again, although it was built before.
    pub force: bool,
    /// Build by a function's run instead of by lines.
    #[serde(default)]
    pub function: Option<FunctionBuild>,
}

/// A build by a function's run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionBuild {
    /// The function.
    pub function: FunctionId,
    /// Its arguments; empty where it has none.
    pub args: Bytes,
    /// How they are encoded: the wire's `DataFormat`.
    pub data_format: i32,
}
