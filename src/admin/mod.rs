//! How people and programs ask a running daemon, and tell it what to do.

pub mod control;
