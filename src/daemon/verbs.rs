//! What the command line and the HTTP interface ask of a daemon.

use super::Daemon;
use crate::admin::control::Verbs;
use crate::commit::VerbError;
use crate::inode::display_path;
use crate::journal::{DraftId, Entry};
use crate::{metrics, rules};

impl Verbs for Daemon {
    fn status(&self) -> serde_json::Value {
        serde_json::json!({
            "pid": std::process::id(),
            "source": self.config.source.to_string_lossy(),
            "mountpoint": self.config.mountpoint.to_string_lossy(),
            "uptime_seconds": self.began.elapsed().as_secs(),
            "commits_since_mount": self.fs.commits_done(),
            "admin": self.address.map(|address| address.to_string()),
            "changes_refused": self.may_change().err().map(|error| error.message),
            "nodes": self.fs.committer().nodes.len(),
            "journal": match self.fs.committer().journal.health() {
                Ok(()) => "ok".to_owned(),
                Err(error) => error.to_string(),
            },
        })
    }

    fn publish(&self, id: DraftId) -> Result<(), VerbError> {
        self.may_change()?;
        self.fs.publish_quarantined(id)
    }

    fn discard(&self, id: DraftId) -> Result<(), VerbError> {
        self.may_change()?;
        self.fs.committer().discard_quarantined(id)
    }

    fn open_quarantined(&self, id: DraftId) -> Result<std::fs::File, VerbError> {
        self.fs.committer().open_quarantined(id)
    }

    fn unmount(&self, force: bool) -> Result<(), VerbError> {
        self.leave(force)
    }

    fn rule(&self, path: &[u8]) -> String {
        let nodes = &self.fs.committer().nodes;
        let is_database = || nodes.fd(nodes.root()).is_ok_and(|root| rules::is_database_at(root, path));
        self.fs.rules().decide_for(path, is_database).to_string()
    }

    fn mismatch(&self, id: DraftId, detail: &str) -> Result<(), VerbError> {
        metrics::verified("different", 1);
        let journal = &self.fs.committer().journal;
        let path = journal.commit(id).ok().flatten().map(|row| display_path(&row.commit.path));
        tracing::error!(draft = id, path, detail, "a published version is not what was published");
        let ticket = journal.submit(Entry::Mismatch { id, detail: detail.to_owned() });
        Ok(journal.wait(ticket)?)
    }

    fn log_level(&self, directives: &str) -> Result<String, String> {
        crate::log::set_level(directives)
    }

    fn other(&self, verb: &str, request: &serde_json::Value) -> Option<Result<serde_json::Value, VerbError>> {
        self.keep(verb, request)
    }
}
