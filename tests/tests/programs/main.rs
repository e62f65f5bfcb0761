//! What a program notices: it does the same work on a plain directory of the host and on the share,
//! which the host's own FUSE client mounts through /dev/fuse. Every difference is a failure.

mod attributes;
mod common;
mod data;
mod directories;
mod host;
mod locks;
mod names;
mod privileges;
mod special;
