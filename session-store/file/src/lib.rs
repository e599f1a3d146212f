//! The operations of `session-store` on an embedded database, for one edge that survives its own restart.
