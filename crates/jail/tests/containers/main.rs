//! Real containers, looked at from inside. Needs root, /bin/busybox (static) and a C compiler.
#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

mod attached;
mod ends;
mod execs;
mod fallbacks;
mod folders;
mod ground;
mod hanging;
mod life;
mod resources;
mod standby;
mod terminals;
mod walls;
