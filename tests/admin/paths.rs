//! Names that are no text, in the answers of verbs: exact, as lists have them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::Value;

use crate::common::mount::show;
use crate::common::{Mount, eventually};

const FILE: &[u8] = b"bad\xff";
const FOLDER: &[u8] = b"dir\xff";

#[test]
fn s51_a_path_that_is_no_text_is_told_exactly_by_each_verb() {
    let m = Mount::setup().options("retain=1h").mount();
    let w = m.agent("W");
    let hex = |path: &[u8]| -> Value { path.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into() };
    let row = |number: usize| {
        eventually("its row is written", || m.json(&["outbox", "ls"]).as_array().unwrap().len() == number);
        m.json(&["outbox", "ls"])[number - 1]["id"].to_string()
    };
    w.put(FILE, "z").unwrap();
    w.unlink(FILE).unwrap();
    let id = row(1);
    assert_eq!(m.json(&["trash", "ls"])[0]["path_hex"], hex(FILE));
    assert_eq!(m.json(&["trash", "restore", &id])["path_hex"], hex(FILE));
    w.unlink(FILE).unwrap();
    let restored = m.http().post(&format!("/v1/trash/{}/restore", row(1))).json();
    assert_eq!(restored["path_hex"], hex(FILE), "{restored}");

    w.mkdir(FOLDER).unwrap();
    let at = m.mnt().join(OsStr::from_bytes(FOLDER));
    let counted = format!("{{\"path_hex\":{}}}", hex(FOLDER));
    let json = [("Content-Type", "application/json")];
    eventually("the folder is known", || m.json(&["status"])["totals"]["folders"] == 2);
    let refreshing = m.http().ask("POST", "/v1/folders/refresh", &json, &counted).json();
    assert_eq!(refreshing["path_hex"], hex(FOLDER), "{refreshing}");
    let out = m.cli_plain(&["rm".as_ref(), "-r".as_ref(), "--json".as_ref(), at.as_os_str()]);
    assert!(out.status.success(), "{}", show(&out));
    assert_eq!(serde_json::from_slice::<Value>(&out.stdout).unwrap()["path_hex"], hex(FOLDER), "{}", show(&out));
    w.mkdir(FOLDER).unwrap();
    let removed = m.http().ask("POST", "/v1/folders/rm", &json, &counted).json();
    assert_eq!(removed["path_hex"], hex(FOLDER), "{removed}");
    // What is text has no second form.
    w.mkdir("plain").unwrap();
    let plain = m.json(&["rm", "-r", "plain"]);
    assert!(plain["path"] == "plain" && plain.get("path_hex").is_none(), "{plain}");
}

#[test]
fn a_list_of_no_rows_does_not_say_that_there_are_none() {
    let m = Mount::setup().options("retain=1h").mount();
    assert!(m.cli_ok(&["outbox", "ls", "-n", "0"]).contains("empty"));
    let w = m.agent("W");
    w.put("f", "x").unwrap();
    w.unlink("f").unwrap();
    eventually("its row is written", || m.json(&["outbox", "ls"]).as_array().unwrap().len() == 1);
    for list in ["outbox", "trash"] {
        let said = m.cli_ok(&[list, "ls", "-n", "0"]);
        assert!(!said.contains("empty") && said.contains("more"), "{said}");
    }
}
