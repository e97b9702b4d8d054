//! What registries and image archives say about an image: indexes, manifests, configurations, as
//! the OCI image specification 1.1 and Docker's schema 2 have them.

use std::collections::BTreeMap;

use blobs::Digest;
use serde::Deserialize;

use crate::context::normalize;
use crate::image::Config;
use crate::limits::{IMAGE_LAYERS_MAX, PULL_BYTES_MAX};

/// Kinds of manifest that this program reads; what a registry is asked for.
pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Why a description of an image cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is no JSON, or not of the form that the specification says.
    #[error("its {what} cannot be read: {why}")]
    Garbled {
        /// What was read.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The format that registries stopped to take in 2019.
    #[error(
        "its manifest is of Docker's schema 1, which has no digests of its layers that could be \
         checked; push the image again with a program of today"
    )]
    Schema1,
    /// Something in a registry that is no image.
    #[error("it is no image of a file system but has {0}")]
    NoImage(String),
    /// There is no image for this machine.
    #[error("it is made for {there}; this machine is {here}")]
    Platform {
        /// Platforms that there are.
        there: String,
        /// The machine's.
        here: String,
    },
    /// A digest of a kind that is not read.
    #[error("it names {what} by {value:?}, which is not sha256: and 64 hex digits")]
    Digest {
        /// What is named.
        what: &'static str,
        /// As it stands there, shortened.
        value: String,
    },
    /// More layers than a container start can mount.
    #[error("it has {0} layers, more than {IMAGE_LAYERS_MAX}")]
    TooManyLayers(usize),
    /// More bytes than one image may have.
    #[error("its layers are {0} bytes together, more than {PULL_BYTES_MAX}")]
    TooLarge(u64),
    /// Manifest and configuration do not belong together.
    #[error("its manifest names {manifest} layers, its configuration {config}")]
    LayerCount {
        /// In the manifest.
        manifest: usize,
        /// In the configuration.
        config: usize,
    },
}

/// A blob that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its digest as it is sent.
    pub digest: Digest,
    /// Its bytes as it is sent.
    pub size: u64,
}

/// What stands under a tag or digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// One image for several platforms; this is the one for this machine.
    Index(Descriptor),
    /// An image.
    Image {
        /// Its configuration.
        config: Descriptor,
        /// Its layers, bottom first.
        layers: Vec<Descriptor>,
    },
}

/// An image's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageConfig {
    /// How its processes start.
    pub config: Config,
    /// The digests of the unpacked layers, bottom first.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct RawManifest {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct RawDescriptor {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    digest: String,
    size: u64,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    variant: Option<String>,
}

impl RawPlatform {
    fn text(&self) -> String {
        let variant = self.variant.as_deref().filter(|variant| !variant.is_empty());
        let variant = variant.map(|variant| format!("/{variant}")).unwrap_or_default();
        format!("{}/{}{variant}", self.os, self.architecture)
    }
}

/// This machine, as manifests call it: operating system and architecture.
pub(crate) fn this_platform() -> (&'static str, &'static str) {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    ("linux", arch)
}

/// Reads an index or a manifest; of an index it takes what is for this machine.
///
/// # Errors
/// When it is neither, or nothing in it can run here.
pub fn parse_manifest(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let raw: RawManifest = from_json("manifest", bytes)?;
    if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
        return Err(ManifestError::Schema1);
    }
    match (raw.manifests, raw.layers, raw.config) {
        (Some(manifests), None, None) => pick(&manifests).map(Manifest::Index),
        (None, Some(layers), Some(config)) => read_image(&config, &layers),
        // Programs that read one part and programs that read the other would see two images.
        (Some(_), ..) => Err(garbled("manifest", "it is an index and an image at once")),
        (None, ..) => Err(garbled("manifest", "it has neither layers nor manifests")),
    }
}

fn read_image(config: &RawDescriptor, layers: &[RawDescriptor]) -> Result<Manifest, ManifestError> {
    if layers.len() > IMAGE_LAYERS_MAX {
        return Err(ManifestError::TooManyLayers(layers.len()));
    }
    if let Some(kind) = layers.iter().find_map(|layer| strange_layer(layer.media_type.as_deref())) {
        return Err(ManifestError::NoImage(format!("layers of the type {kind:?}")));
    }
    let layers: Vec<Descriptor> =
        layers.iter().map(|layer| descriptor("a layer", layer)).collect::<Result<_, _>>()?;
    let bytes = layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
    if bytes > PULL_BYTES_MAX {
        return Err(ManifestError::TooLarge(bytes));
    }
    Ok(Manifest::Image { config: descriptor("its configuration", config)?, layers })
}

/// The type of a layer that is no archive of files, or not here to be had.
fn strange_layer(kind: Option<&str>) -> Option<&str> {
    let kind = kind.filter(|kind| !kind.is_empty())?;
    let known = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
    ];
    let rest = known.iter().find_map(|known| kind.strip_prefix(known));
    match rest {
        Some("" | "+gzip" | ".gzip" | "+zstd" | ".zstd") => None,
        _ => Some(kind),
    }
}

/// The manifest for this machine.
fn pick(manifests: &[RawDescriptor]) -> Result<Descriptor, ManifestError> {
    let (os, arch) = this_platform();
    let fits = |entry: &&RawDescriptor| {
        entry.platform.as_ref().is_some_and(|it| it.os == os && it.architecture == arch)
    };
    // A variant asks for more than the architecture's first processors have, but for arm64's
    // only one, which some write out.
    let is_plain = |entry: &&RawDescriptor| {
        let variant = entry.platform.as_ref().and_then(|platform| platform.variant.as_deref());
        matches!((arch, variant), (_, None | Some("" | "v1")) | ("arm64", Some("v8")))
    };
    let mut fitting = manifests.iter().filter(fits);
    let found = fitting.find(is_plain);
    // An index of one image without a platform says nothing; the image's configuration will.
    let found = found.or(match manifests {
        [only] if only.platform.is_none() => Some(only),
        _ => None,
    });
    match found {
        Some(entry) => descriptor("a manifest", entry),
        None => {
            let names = manifests.iter().filter_map(|entry| entry.platform.as_ref());
            let mut names: Vec<String> = names.map(RawPlatform::text).collect();
            names.retain(|name| name != "unknown/unknown");
            names.dedup();
            Err(wrong_platform(&names.join(", ")))
        }
    }
}

fn wrong_platform(there: &str) -> ManifestError {
    let (os, arch) = this_platform();
    let there = if there.is_empty() { "no platform that it names" } else { there };
    let there = there.chars().take(300).collect();
    ManifestError::Platform { there, here: format!("{os}/{arch}") }
}

fn descriptor(what: &'static str, raw: &RawDescriptor) -> Result<Descriptor, ManifestError> {
    Ok(Descriptor { digest: parse_digest(what, &raw.digest)?, size: raw.size })
}

fn parse_digest(what: &'static str, text: &str) -> Result<Digest, ManifestError> {
    let digest = text.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
    let shown = || text.chars().take(100).collect();
    digest.ok_or_else(|| ManifestError::Digest { what, value: shown() })
}

#[derive(Deserialize)]
struct RawImage {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    config: Option<RawConfig>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    diff_ids: Option<Vec<String>>,
}

/// Go writes lists and maps that are empty as null.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RawConfig {
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    shell: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    stop_signal: Option<String>,
}

/// Reads an image's configuration, which must be for this machine and have `layers` layers.
///
/// # Errors
/// When it cannot be read, or does not belong to the manifest or to this machine.
pub fn parse_config(bytes: &[u8], layers: usize) -> Result<ImageConfig, ManifestError> {
    let raw: RawImage = from_json("configuration", bytes)?;
    let (os, arch) = this_platform();
    let differs = |found: &str, here: &str| !found.is_empty() && found != here;
    if differs(&raw.os, os) || differs(&raw.architecture, arch) {
        return Err(wrong_platform(&format!("{}/{}", raw.os, raw.architecture)));
    }
    let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
    if diff_ids.len() != layers {
        return Err(ManifestError::LayerCount { manifest: layers, config: diff_ids.len() });
    }
    let diff_ids = diff_ids.iter().map(|id| parse_digest("an unpacked layer", id));
    let diff_ids = diff_ids.collect::<Result<_, _>>()?;
    let raw = raw.config.unwrap_or_default();
    let mut config = Config {
        entrypoint: raw.entrypoint.unwrap_or_default(),
        cmd: raw.cmd.unwrap_or_default(),
        shell: raw.shell.unwrap_or_default(),
        user: raw.user.unwrap_or_default(),
        labels: raw.labels.unwrap_or_default(),
        exposed: raw.exposed_ports.unwrap_or_default().into_keys().collect(),
        volumes: raw.volumes.unwrap_or_default().into_keys().collect(),
        stop_signal: raw.stop_signal.unwrap_or_default(),
        ..Config::default()
    };
    if let Some(path) = raw.working_dir.filter(|path| !path.is_empty()) {
        config.workdir = normalize("/", &path);
    }
    for variable in raw.env.unwrap_or_default() {
        let (name, value) = variable.split_once('=').unwrap_or((&variable, ""));
        config.set_env(name, value.to_owned());
    }
    let words = [&config.entrypoint, &config.cmd, &config.shell].into_iter().flatten();
    let env = config.env.iter().flat_map(|(name, value)| [name, value]);
    let texts = words.chain(env).chain([&config.user, &config.workdir]);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(garbled("configuration", "a zero byte stands in it"));
    }
    Ok(ImageConfig { config, diff_ids })
}

fn from_json<'b, T: Deserialize<'b>>(
    what: &'static str,
    bytes: &'b [u8],
) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes).map_err(|error| garbled(what, &error.to_string()))
}

fn garbled(what: &'static str, why: &str) -> ManifestError {
    ManifestError::Garbled { what, why: why.chars().take(300).collect() }
}

#[cfg(test)]
mod tests;
