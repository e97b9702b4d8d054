//! What queues, dicts and secrets have in common on the wire.

use model::Time;
use wire::client::{self as pb, ObjectCreationType as Wish};

use super::environments::check_name;
use super::refusal::Refusal;
use crate::limits::OBJECTS_LISTED_MAX;

/// The name that a request asks for; nothing where the object is to live by its heartbeats.
pub(super) fn named(wish: Wish, name: &str) -> Result<Option<String>, Refusal> {
    match wish {
        Wish::Unspecified
        | Wish::CreateIfMissing
        | Wish::CreateFailIfExists
        | Wish::CreateOverwriteIfExists => {
            check_name("deployment_name", name)?;
            Ok(Some(name.to_owned()))
        }
        Wish::Ephemeral => Ok(None),
        Wish::AnonymousOwnedByApp => {
            let why = "it cannot belong to an app: give it a name, or make it ephemeral";
            Err(Refusal::invalid("object_creation_type", why))
        }
    }
}

/// When an object was made.
pub(super) fn creation_info(created_at: Time) -> pb::CreationInfo {
    pb::CreationInfo { created_at: created_at.as_secs_f64(), ..pb::CreationInfo::default() }
}

/// The moment before which the objects of a page were made, and how many are wanted.
pub(super) fn list_page(page: Option<&pb::ListPagination>, now: Time) -> (Time, u32) {
    // What is being made at this moment belongs to the list, too.
    let all = Time(now.0 + 1);
    let Some(page) = page else { return (all, OBJECTS_LISTED_MAX) };
    let most = match u32::try_from(page.max_objects) {
        Ok(0) | Err(_) => OBJECTS_LISTED_MAX,
        Ok(most) => most.min(OBJECTS_LISTED_MAX),
    };
    (moment(page.created_before).unwrap_or(all), most)
}

/// A moment that came from here as seconds; none where nothing is said. It is rounded, so that it
/// is met exactly.
pub(super) fn moment(secs: f64) -> Option<Time> {
    let since = std::time::Duration::try_from_secs_f64(secs).ok()?;
    let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    (!since.is_zero()).then_some(Time(micros.saturating_add(500) / 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_survives_the_way_over_the_wire() {
        for ms in [1_763_985_123_457, 1_763_985_123_999, 1_763_985_124_000, 1] {
            let created_before = Time(ms).as_secs_f64();
            let page = pb::ListPagination { max_objects: 7, created_before };
            assert_eq!(list_page(Some(&page), Time(5)), (Time(ms), 7));
        }
        let page = pb::ListPagination { max_objects: 0, created_before: 0.0 };
        assert_eq!(list_page(Some(&page), Time(5)), (Time(6), OBJECTS_LISTED_MAX));
    }
}
