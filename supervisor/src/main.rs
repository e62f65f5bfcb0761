//! Skeleton.
mod fuse;

fn main() {}
