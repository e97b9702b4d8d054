//! A container that stands still as long as somebody wants it: whoever reads the answer. When that
//! goes away, in whichever way, or after a time, everything goes on.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tonic::Status;
use tonic::body::Body;

use crate::limits::{END_PAUSE, END_TRIES_MAX, FROZEN_MAX};
use crate::programs::container::Container;
use crate::task::chain;

/// Stops all processes, then answers; they stand still as long as the answer is not dropped, and
/// no longer than it goes on. One after the other has its `turn`.
pub(super) async fn hold(container: Arc<Container>, turn: Arc<Mutex<()>>) -> Result<Body, Status> {
    let turn = Some(turn.lock_owned().await);
    let still = Standstill { container: container.clone(), turn };
    let froze =
        |child: &jail::Child| child.freeze().map_err(|error| Status::internal(chain(&error)));
    container.with_child(froze).await?;
    let begun = futures::stream::once(async { Ok::<_, Infallible>(frame(b"still")) });
    let over = futures::stream::once(async move {
        tokio::time::sleep(FROZEN_MAX).await;
        drop(still);
        Ok(frame(b"over"))
    });
    Ok(Body::new(StreamBody::new(begun.chain(over))))
}

fn frame(text: &'static [u8]) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text))
}

/// Lets everything go on when it is dropped.
struct Standstill {
    container: Arc<Container>,
    /// Held until everything goes on: nobody else's standstill is ended by this one.
    turn: Option<OwnedMutexGuard<()>>,
}

impl Drop for Standstill {
    fn drop(&mut self) {
        let (container, turn) = (self.container.clone(), self.turn.take());
        tokio::spawn(async move {
            for _ in 0..END_TRIES_MAX {
                let thaw = |child: &jail::Child| {
                    child.thaw().map_err(|error| Status::internal(chain(&error)))
                };
                match container.with_child(thaw).await {
                    Err(status) if status.code() == tonic::Code::Internal => {
                        tracing::error!(%status, "a sandbox does not go on: it is tried again");
                        tokio::time::sleep(END_PAUSE).await;
                    }
                    // One that is being ended need not go on.
                    Ok(()) | Err(_) => break,
                }
            }
            drop(turn);
        });
    }
}
