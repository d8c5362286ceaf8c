//! What is done to a real NFS server, and what commitfs on its clients makes of it. `scripts/nfs-lab faults` runs it in
//! its laboratory; anywhere else each test fails and says so.

#![allow(missing_docs)]

mod common;

#[path = "nfs/away.rs"]
mod away;
#[path = "nfs/caches.rs"]
mod caches;
#[path = "nfs/folders.rs"]
mod folders;
#[path = "nfs/lab.rs"]
mod lab;
#[path = "nfs/replaced.rs"]
mod replaced;
#[path = "nfs/replies.rs"]
mod replies;
#[path = "nfs/requests.rs"]
mod requests;
#[path = "nfs/room.rs"]
mod room;
