//! The one consistency checker.
