//! Browsers that came in by a token in the query. A cookie goes to every port of a host, so also to
//! programs of other sandboxes: it holds no token, and works from the address alone that got it.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::limits::SESSIONS_MAX;

/// All that are known. They are gone with the server; the token's link makes new ones.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_id: HashMap<String, (String, IpAddr)>,
    /// Oldest first.
    ids: VecDeque<String>,
}

impl Sessions {
    /// Remembers a token for a peer, and returns what its cookie says.
    pub(super) fn begin(&self, token: String, peer: IpAddr) -> String {
        let id = hex::encode(rand::random::<[u8; 32]>());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while known.ids.len() >= SESSIONS_MAX
            && let Some(oldest) = known.ids.pop_front()
        {
            known.by_id.remove(&oldest);
        }
        known.by_id.insert(id.clone(), (token, peer));
        known.ids.push_back(id.clone());
        id
    }

    /// The token of a cookie that this peer was given.
    pub(super) fn find(&self, id: &str, peer: IpAddr) -> Option<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.by_id.get(id).filter(|(_, given)| *given == peer).map(|(token, _)| token.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let (sessions, peer) = (Sessions::default(), IpAddr::from([10, 0, 0, 1]));
        let ids: Vec<_> = (0..=SESSIONS_MAX).map(|n| sessions.begin(n.to_string(), peer)).collect();
        assert_eq!(sessions.find(&ids[0], peer), None);
        assert_eq!(sessions.find(&ids[1], peer), Some("1".into()));
        assert_eq!(sessions.find(&ids[1], IpAddr::from([10, 0, 0, 2])), None);
        assert_eq!(sessions.0.lock().unwrap().by_id.len(), SESSIONS_MAX);
    }
}
