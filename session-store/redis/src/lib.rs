//! The operations of `session-store` on Redis or Valkey: one node, Sentinel or Cluster.
