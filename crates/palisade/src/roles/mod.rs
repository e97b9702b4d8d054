//! What the binary can be.

pub(crate) mod client;
pub(crate) mod doctor;
pub(crate) mod env;
pub(crate) mod image;
pub(crate) mod ps;
pub(crate) mod python;
pub(crate) mod sandbox;
pub(crate) mod serve;
