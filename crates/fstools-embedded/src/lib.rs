//! The file tool of sandboxes as bytes, for whoever lays it into a container. It is a program that
//! is linked statically, so it cannot be a library of ours: `build.rs` builds it, by itself.

pub use fstools::PATH;

/// The program, an ELF file that needs no other file.
pub const FS_TOOLS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/modal-sandbox-fs-tools"));
