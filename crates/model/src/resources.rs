//! Resources: what a function asks for, and what its containers are held to.

use serde::{Deserialize, Serialize};

/// One mebibyte in bytes.
pub const MIB: u64 = 1 << 20;

/// What a definition asks for. `None` means that nothing was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResourceWish {
    /// CPU that placement reserves, in thousandths of a core.
    pub cpu_request_millis: Option<u64>,
    /// CPU that a container can never exceed, in thousandths of a core.
    pub cpu_limit_millis: Option<u64>,
    /// Memory that placement reserves.
    pub memory_request_bytes: Option<u64>,
    /// Memory at which the kernel ends the container.
    pub memory_limit_bytes: Option<u64>,
    /// Size of the writable layer.
    pub disk_bytes: Option<u64>,
}

/// What the operator lets a container have where a definition says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defaults {
    /// Memory limit.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Open files of one process.
    pub open_files: u64,
    /// Size of the writable layer.
    pub disk_bytes: u64,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            memory_bytes: 1024 * MIB,
            pids: 1_024,
            open_files: 4_096,
            disk_bytes: 8 * 1024 * MIB,
        }
    }
}

/// What a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capacity {
    /// Cores, in thousandths.
    pub cpu_millis: u64,
    /// Memory that containers may have together.
    pub memory_bytes: u64,
    /// The disk that holds writable layers, full or not.
    pub disk_bytes: u64,
}

impl Capacity {
    /// Whether a container of that size fits an empty machine.
    pub fn holds(&self, wish: &Reservation) -> bool {
        wish.cpu_millis <= self.cpu_millis && wish.memory_bytes <= self.memory_bytes
    }
}

/// What one container is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Share of the CPU under contention, in thousandths of a core.
    pub cpu_weight_millis: u64,
    /// Hard cap of the CPU, in thousandths of a core.
    pub cpu_max_millis: u64,
    /// Memory at which the kernel ends the container.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Open files of one process.
    pub open_files: u64,
    /// Size of the writable layer.
    pub disk_bytes: u64,
}

/// What placement reserves for one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reservation {
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Memory.
    pub memory_bytes: u64,
}

/// CPU that is reserved where a definition says nothing: an eighth of a core.
pub const CPU_REQUEST_MILLIS_DEFAULT: u64 = 125;

/// Memory that is reserved where a definition says nothing.
pub const MEMORY_REQUEST_BYTES_DEFAULT: u64 = 128 * MIB;

impl ResourceWish {
    /// What placement reserves.
    pub fn reservation(&self) -> Reservation {
        Reservation {
            cpu_millis: self.cpu_request_millis.unwrap_or(CPU_REQUEST_MILLIS_DEFAULT),
            memory_bytes: self.memory_request_bytes.unwrap_or(MEMORY_REQUEST_BYTES_DEFAULT),
        }
    }

    /// What a container is held to on a machine: unset memory is the operator's default, set
    /// memory is the larger of request and limit; the CPU is capped by the machine.
    pub fn limits(&self, defaults: &Defaults, machine: &Capacity) -> Limits {
        let memory = match (self.memory_request_bytes, self.memory_limit_bytes) {
            (None, None) => defaults.memory_bytes,
            (request, limit) => request.unwrap_or(0).max(limit.unwrap_or(0)),
        };
        let cap = machine.cpu_millis.max(1);
        Limits {
            cpu_weight_millis: self.reservation().cpu_millis.max(1),
            cpu_max_millis: self.cpu_limit_millis.unwrap_or(cap).clamp(1, cap),
            memory_bytes: memory,
            pids: defaults.pids,
            open_files: defaults.open_files,
            disk_bytes: self.disk_bytes.unwrap_or(defaults.disk_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Capacity =
        Capacity { cpu_millis: 2_000, memory_bytes: 8 << 30, disk_bytes: 1 << 40 };

    #[test]
    fn unset_means_the_operators_defaults() {
        let limits = ResourceWish::default().limits(&Defaults::default(), &MACHINE);
        assert_eq!(limits.memory_bytes, 1024 * MIB);
        assert_eq!(limits.cpu_max_millis, 2_000);
        assert_eq!(limits.cpu_weight_millis, 125);
    }

    #[test]
    fn memory_is_the_larger_of_request_and_limit() {
        let wish = ResourceWish {
            memory_request_bytes: Some(64 * MIB),
            memory_limit_bytes: Some(32 * MIB),
            cpu_limit_millis: Some(64_000),
            ..ResourceWish::default()
        };
        let limits = wish.limits(&Defaults::default(), &MACHINE);
        assert_eq!(limits.memory_bytes, 64 * MIB);
        assert_eq!(limits.cpu_max_millis, 2_000);
    }
}
