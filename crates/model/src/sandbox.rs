//! Sandboxes: containers that a client holds in its hand. Plain data.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::resources::{Limits, ResourceWish};
use crate::spec::{ImageContent, MountFile};
use crate::{AppId, ImageId, Millis, MountId, SandboxId, SecretId, TaskId, Time};

/// A sandbox as its definition asks for it, checked: whatever stands here is enforced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Unique among the running ones of its app.
    pub name: Option<String>,
    /// The image it runs.
    pub image: ImageId,
    /// Files laid over the image.
    pub mounts: Vec<MountId>,
    /// Environment variables, later ones win.
    pub secrets: Vec<SecretSource>,
    /// Program and arguments; where there are none, the image's, and where that has none, nothing
    /// is run and the sandbox lives until it is ended.
    pub entrypoint: Vec<String>,
    /// Absolute folder in which programs start; the image's where there is none.
    pub workdir: Option<String>,
    /// What it asks for.
    pub resources: ResourceWish,
    /// How long it may live from its start on.
    pub timeout_ms: Millis,
    /// It ends after this long without an exec, a write to its stdin or a connection.
    pub idle_timeout_ms: Option<Millis>,
    /// What it may reach.
    pub network: NetworkRule,
    /// Ports that can be reached from outside.
    pub ports: Vec<OpenPort>,
    /// Who may reach them; nobody is listed: anyone.
    pub inbound: Vec<IpNet>,
    /// What says that it is ready.
    pub probe: Option<Probe>,
    /// Its program has a terminal.
    pub pty: Option<Pty>,
}

/// Where variables come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretSource {
    /// A secret that is kept.
    Named(SecretId),
    /// What came with the definition: name and value.
    Inline(Vec<(String, String)>),
}

/// What a sandbox may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkRule {
    /// Nothing but `lo`.
    Blocked,
    /// The internet, but neither the host nor private ranges nor neighbours.
    Open,
    /// Of what `Open` reaches, only what is listed; nothing is listed: nothing.
    Listed {
        /// Ranges of addresses.
        cidrs: Vec<IpNet>,
        /// Names in lower case, without a dot at the end; `*.example.com` is every name below
        /// `example.com`, and that one itself.
        domains: Vec<String>,
    },
}

/// A port of a sandbox that can be reached from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPort {
    /// The port inside.
    pub port: u16,
    /// How it is reached.
    pub kind: TunnelKind,
}

/// How a port is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelKind {
    /// TLS that ends at the gateway; what is inside it passes as it is.
    Encrypted,
    /// As `Encrypted`, for HTTP/2: the gateway agrees on `h2`.
    Http2,
    /// TCP as it is.
    Plain,
}

/// What says that a sandbox is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What is tried.
    pub check: ProbeCheck,
    /// Time between two tries.
    pub interval_ms: Millis,
}

/// What is tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeCheck {
    /// Somebody listens on this port.
    Tcp(u16),
    /// This program ends with code 0.
    Exec(Vec<String>),
}

/// A terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pty {
    /// Its height in characters.
    pub rows: u16,
    /// Its width in characters.
    pub columns: u16,
    /// Variables that describe it, as `TERM`: name and value.
    pub env: Vec<(String, String)>,
}

/// Everything a worker needs to run one sandbox.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxStart {
    /// The container's id.
    pub task: TaskId,
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The app it belongs to.
    pub app: AppId,
    /// The image's id.
    pub image_id: ImageId,
    /// The image.
    pub image: ImageContent,
    /// Files laid over it.
    pub files: Vec<MountFile>,
    /// Environment variables; they win over the image's.
    pub env: Vec<(String, String)>,
    /// As in the specification.
    pub entrypoint: Vec<String>,
    /// As in the specification.
    pub workdir: Option<String>,
    /// What it is held to.
    pub limits: Limits,
    /// When it ends at the latest.
    pub deadline: Time,
    /// As in the specification.
    pub idle_timeout_ms: Option<Millis>,
    /// As in the specification.
    pub network: NetworkRule,
    /// As in the specification.
    pub ports: Vec<OpenPort>,
    /// As in the specification.
    pub probe: Option<Probe>,
    /// As in the specification.
    pub pty: Option<Pty>,
}

impl std::fmt::Debug for SandboxStart {
    /// Says what it is, and no value of a variable.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SandboxStart")
            .field("task", &self.task)
            .field("sandbox", &self.sandbox)
            .field("image", &self.image_id)
            .finish_non_exhaustive()
    }
}
