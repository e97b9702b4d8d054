//! What of queues, dicts, secrets and snapshots is old enough to be forgotten.

use store::dicts::entries;
use store::queues::{claims, items};
use store::{Hint, dicts, image_names, images, queues, secrets};

use crate::Plane;
use crate::limits::{
    DICT_ENTRY_KEPT, OBJECT_HEARTBEAT_MAX, QUEUE_CLAIM_KEPT, SECRET_KEPT, SWEEP_ROWS_MAX,
};

/// Forgets what nobody can need any more, in steps that keep other writers waiting for a moment
/// only.
pub async fn sweep(plane: &Plane) -> Result<(), store::Error> {
    plane.settle().await?;
    plane.settle_orphans().await?;
    forget_silent(plane).await?;
    forget_claims(plane).await?;
    forget_items(plane).await?;
    forget_entries(plane).await?;
    forget_secrets(plane).await?;
    forget_images(plane).await
}

/// Queues and dicts whose clients have not been heard of.
async fn forget_silent(plane: &Plane) -> Result<(), store::Error> {
    let before = plane.now() - OBJECT_HEARTBEAT_MAX;
    let found = {
        let mut db = plane.store.read().await?;
        !queues::silent(&mut db, before).await?.is_empty()
            || !dicts::silent(&mut db, before).await?.is_empty()
    };
    if !found {
        return Ok(());
    }
    // Looked at again: a heartbeat may have come meanwhile.
    let mut tx = plane.store.begin().await?;
    for queue in queues::silent(&mut tx, before).await? {
        queues::delete(&mut tx, &queue).await?;
        tx.ring(Hint::Queue(queue));
    }
    for dict in dicts::silent(&mut tx, before).await? {
        dicts::delete(&mut tx, &dict).await?;
    }
    tx.commit().await
}

/// Items that were sent, and that no caller asks for again.
async fn forget_claims(plane: &Plane) -> Result<(), store::Error> {
    let before = plane.now() - QUEUE_CLAIM_KEPT;
    while !plane.is_closing() {
        let most = SWEEP_ROWS_MAX;
        let old = claims::delivered(&mut *plane.store.read().await?, before, most).await?;
        if old.is_empty() {
            break;
        }
        let mut tx = plane.store.begin().await?;
        for claim in old {
            claims::forget(&mut tx, claim, before).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}

/// Items of partitions that have ended.
async fn forget_items(plane: &Plane) -> Result<(), store::Error> {
    let mut more = items::sweepable(&mut *plane.store.read().await?, plane.now()).await?;
    while more && !plane.is_closing() {
        let mut tx = plane.store.begin().await?;
        more = items::sweep(&mut tx, SWEEP_ROWS_MAX, plane.now()).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Entries of dicts that were cleared or deleted, and those that nobody uses.
async fn forget_entries(plane: &Plane) -> Result<(), store::Error> {
    let alive = plane.now() - DICT_ENTRY_KEPT;
    let mut more = entries::sweepable(&mut *plane.store.read().await?, alive).await?;
    while more && !plane.is_closing() {
        let mut tx = plane.store.begin().await?;
        more = entries::sweep(&mut tx, SWEEP_ROWS_MAX, alive).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Secrets with neither a name nor an app. Those of an app go with what else it leaves.
async fn forget_secrets(plane: &Plane) -> Result<(), store::Error> {
    let before = plane.now() - SECRET_KEPT;
    let old = secrets::unowned(&mut *plane.store.read().await?, before).await?;
    if old.is_empty() {
        return Ok(());
    }
    let mut tx = plane.store.begin().await?;
    for secret in old {
        secrets::forget(&mut tx, &secret).await?;
    }
    tx.commit().await
}

/// Images that were to be kept for a time only.
async fn forget_images(plane: &Plane) -> Result<(), store::Error> {
    while !plane.is_closing() {
        let (now, most) = (plane.now(), SWEEP_ROWS_MAX);
        let old = images::expired(&mut *plane.store.read().await?, now, most).await?;
        if old.is_empty() {
            break;
        }
        let mut tx = plane.store.begin().await?;
        for image in old {
            image_names::forget(&mut tx, &image).await?;
            let why = "it was kept for the time that was asked for: take another snapshot";
            images::delete(&mut tx, &image, why).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}
