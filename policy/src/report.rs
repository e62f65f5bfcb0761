//! reads back
