//! One container's life on this worker.

mod containers;
pub(crate) mod inside;
mod keep;
mod output;
mod run;

pub(crate) use containers::{Containers, Found};
pub(crate) use output::now;
pub(crate) use run::{chain, run};

/// The control group's and scratch space's name of a task: ids have capital letters, which the
/// jail's names have not.
pub(crate) fn plain_name(task: &model::TaskId) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(task.as_str().as_bytes());
    format!("ta-{}", hex::encode(&hash[..12]))
}
