//! What the admin sees: HTTP, live events, metrics, the page, waiting, looking after a mount.

#![allow(missing_docs)]

mod common;

#[path = "admin/access.rs"]
mod access;
#[path = "admin/api.rs"]
mod api;
#[path = "admin/commands.rs"]
mod commands;
#[path = "admin/decisions.rs"]
mod decisions;
#[path = "admin/events.rs"]
mod events;
#[path = "admin/keeping.rs"]
mod keeping;
#[path = "admin/monitoring.rs"]
mod monitoring;
#[path = "admin/paths.rs"]
mod paths;
#[path = "admin/proxy.rs"]
mod proxy;
#[path = "admin/read_only.rs"]
mod read_only;
#[path = "admin/waiting.rs"]
mod waiting;
