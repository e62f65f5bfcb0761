//! Adaptive look before sleeping.
