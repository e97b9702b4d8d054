//! How much apps have printed since their output was last cut to size.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use model::AppId;
use store::logs;

use crate::Plane;
use crate::limits::{LOG_BYTES_BETWEEN_TRIMS, LOG_BYTES_KEPT};

/// Bytes by app.
#[derive(Debug, Default)]
pub struct Printed(Mutex<BTreeMap<AppId, u64>>);

impl Printed {
    /// Adds bytes. Says whether it is time to cut the app's output to size.
    #[must_use]
    pub fn add(&self, app: &AppId, bytes: u64) -> bool {
        let mut printed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_app = printed.entry(app.clone()).or_default();
        *of_app += bytes;
        let full = *of_app > LOG_BYTES_BETWEEN_TRIMS;
        if full {
            printed.remove(app);
        }
        full
    }

    /// The app has ended.
    pub fn forget(&self, app: &AppId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(app);
    }
}

impl Plane {
    /// Cuts the output of apps to size: a container that prints without end must not fill the disk
    /// for all.
    pub(crate) async fn trim_output(&self, apps: BTreeSet<AppId>) -> Result<(), store::Error> {
        for app in apps {
            let mut tx = self.store.begin().await?;
            let marker = format!(
                "(older output was dropped: an app keeps its latest {} MiB)\n",
                LOG_BYTES_KEPT >> 20
            );
            let stream = model::link::Stream::Info.number();
            if logs::trim(&mut tx, &app, LOG_BYTES_KEPT, &marker, stream).await? {
                tracing::info!(%app, "an app has printed more than is kept: the oldest is dropped");
            }
            tx.commit().await?;
        }
        Ok(())
    }
}
