//! Every rpc of the command router, and what answers it. All have the same gate: a token opens one
//! task. What is not here is refused.

/// What answers a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Who has the programs of a container: a sandbox's supervisor, or the worker.
    Passed,
    /// The same, once the values of secrets are put in.
    Start,
    /// The same, or what is kept of a sandbox that has ended.
    Output,
    /// The worker: it has the network.
    Network,
    /// The worker: there are no volumes yet.
    Volumes,
    /// The worker, with the plane: images of a sandbox's files.
    Files(Files),
    /// Nothing, and why.
    Declined(&'static str),
}

/// What is done with images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// All files are kept.
    Keep,
    /// A folder is kept.
    KeepFolder,
    /// An image is laid into the sandbox.
    Mount,
    /// It is taken away.
    Unmount,
}

use Answer::{Declined, Network, Output, Passed, Start, Volumes};

const SIDECARS: Answer = Declined("further containers in a sandbox are not served: make another");
const MEMORY: Answer = Declined("snapshots of a sandbox's memory are not served: keep its files");
const OUTBOUND: Answer = Declined("set lists of addresses and names with TaskSetNetworkAccess");

/// The rows.
#[rustfmt::skip]
const ROWS: &[(&str, Answer)] = &[
    // Programs
    ("TaskExecStart",            Start),
    ("TaskExecStdioRead",        Passed),
    ("TaskExecStdinWrite",       Passed),
    ("TaskExecStdinWriteStream", Passed),
    ("TaskExecStdinStatus",      Passed),
    ("TaskExecPoll",             Passed),
    ("TaskExecWait",             Passed),
    // The sandbox's own program
    ("SandboxStdioReadV2",       Output),
    ("SandboxStdinWriteV2",      Passed),
    ("SandboxWaitUntilReady",    Passed),
    // Its network, its volumes
    ("TaskSetNetworkAccess",     Network),
    ("TaskSetOutboundPolicy",    OUTBOUND),
    ("TaskReloadVolumes",        Volumes),
    // Its files
    ("TaskSnapshotFilesystem",   Answer::Files(Files::Keep)),
    ("TaskSnapshotDirectory",    Answer::Files(Files::KeepFolder)),
    ("TaskMountDirectory",       Answer::Files(Files::Mount)),
    ("TaskUnmountDirectory",     Answer::Files(Files::Unmount)),
    ("TaskSnapshotMemory",       MEMORY),
    // Containers beside it
    ("TaskContainerCreate",      SIDECARS),
    ("TaskContainerGet",         SIDECARS),
    ("TaskContainerList",        SIDECARS),
    ("TaskContainerTerminate",   SIDECARS),
    ("TaskContainerWait",        SIDECARS),
];

/// The row of an rpc.
pub(super) fn of(name: &str) -> Option<Answer> {
    ROWS.iter().find(|(rpc, _)| *rpc == name).map(|(_, answer)| *answer)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rpc_of_the_service_has_one_row() {
        let rows: BTreeSet<_> = ROWS.iter().map(|(name, _)| *name).collect();
        assert_eq!(rows.len(), ROWS.len(), "an rpc has two rows");
        assert_eq!(rows, wire::names::ROUTER.iter().copied().collect());
        let served = |(name, answer): &(&'static str, Answer)| match answer {
            Answer::Declined(_) => None,
            _ => Some(*name),
        };
        for name in ROWS.iter().filter_map(served) {
            assert!(wire::rpc::router::DECLARED.contains(&name), "{name} is not declared");
        }
    }
}
