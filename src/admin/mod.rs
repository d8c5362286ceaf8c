//! How people and programs ask a running daemon, and tell it what to do: the control socket for the command line, HTTP
//! for everything else.
//!
//! HTTP runs on one thread of its own with at most two more for what may block. Whoever reads the journal does so a page
//! at a time over one shared connection, which is closed when nobody needs it.

mod api;
pub mod client;
pub mod control;
mod events;
mod guard;
pub mod http;
pub mod json;
mod meters;
mod page;
mod problem;
mod store;

pub use events::check_kinds;
