//! Whether a sandbox is idle: no program runs in it beside its own, nothing is written to its
//! stdin, and no connection to its ports is open.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Debug, Clone, Copy)]
struct Uses {
    busy: usize,
    connections: usize,
    last: Instant,
}

/// What is done in a sandbox now, and when something was done last.
#[derive(Debug)]
pub(crate) struct Activity(watch::Sender<Uses>);

/// As long as this is held, the sandbox is not idle.
#[derive(Debug)]
pub(crate) struct Busy<'a>(&'a Activity);

impl Activity {
    /// Nothing has been done yet.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Uses { busy: 0, connections: 0, last: Instant::now() }))
    }

    /// Something is done from now on.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.change(|uses| uses.busy += 1);
        Busy(self)
    }

    /// So many connections are open.
    pub(crate) fn set_connections(&self, count: usize) {
        self.change(|uses| uses.connections = count);
    }

    fn change(&self, change: impl FnOnce(&mut Uses)) {
        self.0.send_modify(|uses| {
            change(uses);
            uses.last = Instant::now();
        });
    }

    /// Waits until nothing was done for so long.
    pub(crate) async fn idle_for(&self, time: Duration) {
        let mut uses = self.0.subscribe();
        loop {
            let now = *uses.borrow_and_update();
            let late = async {
                match now.busy + now.connections {
                    0 => tokio::time::sleep_until(now.last + time).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = late => return,
                _ = uses.changed() => {}
            }
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.change(|uses| uses.busy -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_begins_with_the_last_use() {
        let activity = Activity::new();
        let second = Duration::from_secs(1);
        let begun = Instant::now();
        let busy = activity.busy();
        assert!(tokio::time::timeout(10 * second, activity.idle_for(second)).await.is_err());
        activity.set_connections(1);
        drop(busy);
        assert!(tokio::time::timeout(10 * second, activity.idle_for(second)).await.is_err());
        activity.set_connections(0);
        activity.idle_for(second).await;
        assert_eq!(begun.elapsed(), 21 * second);
    }
}
