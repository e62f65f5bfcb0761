//! What a program notices: the same work on a plain directory of the host and on the share, mounted by the host's own
//! FUSE client through /dev/fuse. Whatever differs is a failure.

mod attributes;
mod common;
mod data;
mod directories;
mod host;
mod locks;
mod names;
mod privileges;
mod special;
