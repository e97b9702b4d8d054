//! Real containers, looked at from inside. Needs root, /bin/busybox (static) and a C compiler.

mod ground;
mod walls;
