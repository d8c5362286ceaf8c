//! What the daemon does when asked about things taken out of the name space, and about totals.

use serde_json::{Value, json};

use super::Daemon;
use crate::admin::control::path_in;
use crate::admin::json::path_json;
use crate::commit::VerbError;
use crate::folders::RefreshError;
use crate::inode::display_path;
use crate::journal::OutboxId;
use crate::metrics;
use crate::sys::Errno;

impl Daemon {
    /// `None` for a verb that is not known here.
    pub(super) fn keep(&self, verb: &str, request: &Value) -> Option<Result<Value, VerbError>> {
        let words: &[&str] = match verb {
            "outbox_retry" | "trash_purge" => &["ids"],
            "outbox_drop" => &["id"],
            "trash_restore" => &["id", "path", "path_hex", "replace"],
            "remove" => &["path", "path_hex", "force", "now"],
            "refresh" => &["path", "path_hex", "wait"],
            "fsck" => &["repair"],
            "verified" => &["same", "gone", "unreadable"],
            _ => return None,
        };
        if let Err(error) = only(words, request) {
            return Some(Err(error));
        }
        let changes = match verb {
            "outbox_retry" | "trash_purge" | "trash_restore" | "remove" | "refresh" => true,
            "fsck" => request["repair"] == true,
            // The row is given up, and its inode stays.
            _ => false,
        };
        if changes && let Err(error) = self.may_change() {
            return Some(Err(error));
        }
        Some(match verb {
            "outbox_retry" => self.retry(request),
            "outbox_drop" => one(request).and_then(|id| self.fs.reaper().drop_row(id)).map(|()| json!({})),
            "trash_purge" => self.purge(request),
            "trash_restore" => self.restore(request),
            "remove" => self.remove(request),
            "refresh" => self.refresh(request),
            "fsck" => self.fsck(request),
            "verified" => verified(request),
            _ => return None,
        })
    }

    /// Read-only holds for admins too: nothing of the export is changed because somebody asks.
    pub(super) fn may_change(&self) -> Result<(), VerbError> {
        if !self.config.read_only {
            return Ok(());
        }
        let mountpoint = self.config.mountpoint.display();
        let message =
            format!("{mountpoint}: is mounted read-only (-o ro), which verbs keep to; mount it without to change it");
        Err(VerbError::new(Errno::ROFS, message))
    }

    /// Without numbers, every dead one.
    fn retry(&self, request: &Value) -> Result<Value, VerbError> {
        let rows = match request.get("ids") {
            Some(_) => ids(request)?,
            None => self.fs.committer().journal.read(|reader| reader.dead_letters())?,
        };
        self.fs.reaper().retry(rows.clone()).map(|()| json!({ "ids": rows }))
    }

    fn purge(&self, request: &Value) -> Result<Value, VerbError> {
        let some = request.get("ids").map(|_| ids(request)).transpose()?;
        self.fs.reaper().purge(some).map(|()| json!({}))
    }

    fn restore(&self, request: &Value) -> Result<Value, VerbError> {
        let to = path_in(request)?;
        let replace = request["replace"].as_bool().unwrap_or(false);
        self.fs.restore(one(request)?, to.as_deref(), replace).map(|path| path_json(&path).into())
    }

    fn remove(&self, request: &Value) -> Result<Value, VerbError> {
        let path = path_in(request)?.ok_or_else(|| VerbError::invalid("request has no path"))?;
        let flag = |name: &str| request[name].as_bool().unwrap_or(false);
        let id = self.fs.remove_tree(&path, flag("force"), flag("now"))?;
        Ok(json!({ "id": id }))
    }

    fn refresh(&self, request: &Value) -> Result<Value, VerbError> {
        let path = path_in(request)?.ok_or_else(|| VerbError::invalid("request has no path"))?;
        let totals = &self.fs.committer().totals;
        if !totals.is_on() {
            return Err(VerbError::new(Errno::OPNOTSUPP, "this mount keeps no folder totals (totals = false)"));
        }
        if !totals.is_folder(&path)? {
            return Err(VerbError::new(Errno::NOENT, format!("{}: is no folder of this mount", display_path(&path))));
        }
        if request["wait"] == false {
            totals.begin_refresh(&path)?;
            return Ok(json!({}));
        }
        let (bytes, files) = totals.refresh(&path).map_err(|error| match error {
            RefreshError::Folder { errno, .. } => VerbError::new(errno, error.to_string()),
            RefreshError::Journal(error) => error.into(),
        })?;
        Ok(json!({ "drift_bytes": bytes, "drift_files": files }))
    }

    fn fsck(&self, request: &Value) -> Result<Value, VerbError> {
        let repair = request["repair"].as_bool().unwrap_or(false);
        let swept = self.fs.reaper().sweep(repair).map_err(|error| VerbError::new(Errno::IO, error.to_string()))?;
        let mut found = serde_json::to_value(swept).unwrap_or_default();
        found["clean"] = swept.is_clean().into();
        found["repaired"] = repair.into();
        Ok(found)
    }
}

/// What `commitfs verify` has found, for the metrics. What is different it tells one by one.
fn verified(request: &Value) -> Result<Value, VerbError> {
    for outcome in ["same", "gone", "unreadable"] {
        let versions =
            request[outcome].as_u64().ok_or_else(|| VerbError::invalid("request has no numbers of versions"))?;
        metrics::verified(outcome, versions);
    }
    Ok(json!({}))
}

fn ids(request: &Value) -> Result<Vec<OutboxId>, VerbError> {
    let ids = request["ids"].as_array().and_then(|ids| ids.iter().map(Value::as_i64).collect::<Option<Vec<_>>>());
    ids.ok_or_else(|| VerbError::invalid("request has no ids"))
}

/// A word that is not known may have been meant to narrow down what is done.
fn only(words: &[&str], request: &Value) -> Result<(), VerbError> {
    let said = request.as_object().into_iter().flat_map(|fields| fields.keys());
    match said.map(String::as_str).find(|word| *word != "verb" && !words.contains(word)) {
        None => Ok(()),
        Some(word) => Err(VerbError::invalid(format!("request has {word:?}, and only {} are known", words.join(", ")))),
    }
}

fn one(request: &Value) -> Result<OutboxId, VerbError> {
    request["id"].as_i64().ok_or_else(|| VerbError::invalid("request has no id"))
}
