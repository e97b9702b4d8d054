//! The image of uv where no registry has it: its two programs, out of its package on the index.
//!
//! The client's recipes take `/uv` from the image `ghcr.io/astral-sh/uv`. The package of the same
//! release on the package index holds the same programs. A step on our own base image fetches it,
//! with the host's package settings, once for each release; which release is the newest is asked
//! once a day.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::build::{Builder, Error, Log, say};
use crate::catalogue;
use crate::image::Image;
use crate::key::KeyHasher;
use crate::layer::Error as LayerError;
use crate::limits::{UV_FETCH_MAX, UV_NEWEST_MAX};
use crate::step::{Exit, RunStep, StepDirs, StepRunner};

/// What the step runs.
const FETCH: &str = include_str!("uv/fetch.py");

/// The files of the image.
const PROGRAMS: [&str; 2] = ["uv", "uvx"];

/// Which uv.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// As in a requirement: `==0.8.3`, `==0.8.*`; empty for the newest.
    pub(crate) version: String,
    /// The minor version of the Python that the build has, whose base image is there already.
    pub(crate) minor: Option<u8>,
    /// Whether to fetch it although it was fetched before.
    pub(crate) is_forced: bool,
}

impl Request {
    /// Gets the image, and makes it if this is the first time.
    ///
    /// # Errors
    /// When the package cannot be fetched; nothing is kept then.
    pub(crate) fn image(
        &self,
        builder: &Builder,
        runner: &dyn StepRunner,
        log: &mut Log<'_>,
    ) -> Result<Image, Error> {
        let store = builder.store();
        let mut key = KeyHasher::new("uv");
        key.texts([FETCH, &self.version, &self.day(), std::env::consts::ARCH]);
        let key = key.finish();
        let lock = store.lock(key);
        let _alone = lock.hold();
        if !self.is_forced
            && let Some(image) = store.recall(key)?
        {
            return Ok(image);
        }
        say(log, "uv: no registry is asked; it is taken from its package on the index");
        let minor = self.minor.filter(|minor| catalogue::has_python(*minor));
        let base = format!("python:3.{}-slim", minor.unwrap_or(catalogue::PYTHON_MINOR_DEFAULT));
        // Never with the user's image: what it calls pip is the user's, and this is for all.
        let failed = |source| Error::Uv { version: self.version.clone(), source };
        let base = builder.base_at_hand(&base, log).map_err(|e| failed(Box::new(e)))?;
        let draft = store.draft()?;
        let dirs = StepDirs { upper: draft.upper(), work: draft.work() };
        let _used = store.lease(&base.layers)?;
        let (program, below) = ([FETCH, &self.version], store.diffs(&base.layers)?);
        let step = RunStep::of_python(&program, &base.config, below, dirs, UV_FETCH_MAX);
        match runner.run(&step, log).map_err(|e| failed(Box::new(e)))? {
            Exit::Code(0) => {}
            exit => return Err(failed(format!("pip ends by {exit}; its output says why").into())),
        }
        // Only the programs: whatever else the step left is no part of the image.
        let programs = store.draft()?;
        for name in PROGRAMS {
            let (from, to) = (draft.upper().join(name), programs.upper().join(name));
            std::fs::rename(&from, &to).map_err(LayerError::file("moving", &from))?;
        }
        let layers = store.commit(programs)?.into_iter().collect();
        let image = Image { layers, ..Image::default() };
        store.remember(key, &image)?;
        Ok(image)
    }

    /// What makes a release out of date: the day, unless it is named whole.
    fn day(&self) -> String {
        if !self.version.is_empty() && !self.version.ends_with('*') {
            return String::new();
        }
        // A clock before 1970 is as good as any other day.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (now.as_secs() / UV_NEWEST_MAX.as_secs()).to_string()
    }
}
