//! Measures daemons against each other: the same requests over real virtqueues, alternately, in one run.
//!
//! - [`tree`] is what is shared, [`cases`] is what is done with it, an [`actor`] does it for one request in flight.
//! - [`variant`] is a daemon's command line, [`launcher`] how it is started, [`session`] a running one.
//! - [`engine`] keeps a number of requests in flight on a queue, [`wait`] sleeps for it.
//! - [`traces`] is work of real programs through /dev/fuse, [`limits`] what is neither.
//! - [`plan`] runs everything in rounds, [`stats`] makes medians and ratios of it, [`report`] writes them down.

pub mod actor;
pub mod cases;
pub mod engine;
pub mod launcher;
pub mod limits;
pub mod plan;
pub mod report;
pub mod session;
pub mod stats;
mod sys;
pub mod traces;
pub mod tree;
pub mod variant;
pub mod wait;
