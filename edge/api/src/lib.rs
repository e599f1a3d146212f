//! The gRPC contracts between edges (`proto/mesh.proto`) and between an operator and the edges (`proto/control.proto`). The generated code is
//! committed, so that a build needs no compiler of contracts; a test makes it again and compares.
#![forbid(unsafe_code)]

/// Octets of the file in which an edge keeps its last good configuration. While it is written anew there are two of them: the volume of a pod
/// has room for both, else its node would end the pod.
pub const MAX_KEPT: usize = 512 << 20;

/// `proto/mesh.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated; the comments stand in the contract"
)]
#[rustfmt::skip]
#[path = "gen/sipmcp.mesh.v1.rs"]
pub mod mesh;

/// `proto/control.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated; the comments stand in the contract"
)]
#[rustfmt::skip]
#[path = "gen/sipmcp.control.v1.rs"]
pub mod control;
