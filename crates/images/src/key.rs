//! Names of build results before they are known: a hash over all that goes into a step.

use blobs::Digest;
use sha2::{Digest as _, Sha256};

use crate::layer::Key;

/// Collects what goes into a key. Every text goes in with its length, so that two different
/// lists of texts never look the same.
#[derive(Debug)]
pub(crate) struct KeyHasher(Sha256);

impl KeyHasher {
    /// Starts a key of a kind of step.
    pub(crate) fn new(kind: &str) -> Self {
        let mut hasher = Self(Sha256::new_with_prefix("palisade key 1\n"));
        hasher.text(kind);
        hasher
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// A list of texts, told apart from the same texts outside a list.
    pub(crate) fn texts<'t>(&mut self, texts: impl IntoIterator<Item = &'t str>) {
        let texts: Vec<&str> = texts.into_iter().collect();
        self.0.update((texts.len() as u64).to_le_bytes());
        texts.into_iter().for_each(|text| self.text(text));
    }

    pub(crate) fn digests(&mut self, digests: &[Digest]) {
        self.0.update((digests.len() as u64).to_le_bytes());
        digests.iter().for_each(|digest| self.0.update(digest.as_bytes()));
    }

    pub(crate) fn finish(self) -> Key {
        Key(Digest::from_bytes(self.0.finalize().into()))
    }
}
