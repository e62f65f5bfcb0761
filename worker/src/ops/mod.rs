//! The operations, a file for each family. Each takes the volume and a request's fields, and answers as
//! `airlockfs_ipc::message` says.

pub(crate) mod attr;
pub(crate) mod create;
pub(crate) mod dir;
pub(crate) mod file_flags;
pub(crate) mod io;
pub(crate) mod link;
pub(crate) mod lock;
pub(crate) mod lookup;
pub(crate) mod open;
pub(crate) mod statfs;
pub(crate) mod xattr;
