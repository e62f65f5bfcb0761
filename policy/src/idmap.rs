//! User namespaces and the id maps the parent writes for them (user_namespaces(7), newuidmap(1)).

/// A range of an id map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMapRange {
    /// First id inside the namespace.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Whether the worker gets a user namespace and what ids it maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum UserNamespace {
    /// None where the caller has the host's capabilities. Otherwise a new one: 0 is the caller, 1 and up are its
    /// subordinate ids (subuid(5)) where newuidmap(1) is there; without, the caller is the only id.
    #[default]
    Auto,
    /// A new one with these maps (`--uid-map`, `--gid-map`); an empty list stands for the caller's own id as 0.
    Maps {
        /// User ids.
        uids: Vec<IdMapRange>,
        /// Group ids.
        gids: Vec<IdMapRange>,
    },
}
