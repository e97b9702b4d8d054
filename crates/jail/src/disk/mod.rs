//! Disk limits of writable layers.
