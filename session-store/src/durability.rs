//! What an acknowledgement means.

/// Durability class of a tenant (`SipDomain.spec.durability`). A class that a store cannot give is refused when the configuration is
/// read, never lowered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// The store applied it: survives any number of edges that die.
    #[default]
    Memory,
    /// A replica has it, too: survives the primary, if a replica that caught up is promoted.
    Replica,
    /// It is on disk: survives a power loss.
    Fsync,
}

impl Durability {
    /// As it is written in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Durability::Memory => "Memory",
            Durability::Replica => "Replica",
            Durability::Fsync => "Fsync",
        }
    }
}
