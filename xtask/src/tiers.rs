//! `cargo xtask test`: every test there is, by tier.
