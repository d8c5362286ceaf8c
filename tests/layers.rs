//! Imports point downward only: every `use crate::` in `src/` goes to a room of a lower layer, or stays in its room.

#![allow(missing_docs)]

use std::path::{Path, PathBuf};

/// From the ground up; rooms of one layer do not import each other, except where `NEIGHBOURS` says so.
const LAYERS: &[&[&str]] = &[
    &["sys", "failpoint", "metrics", "log"],
    &["journal", "inode", "rules"],
    &["commit", "retention", "folders"],
    &["draft"],
    &["fs"],
    &["fuse", "admin"],
    &["main", "cli", "config", "daemon"],
];

/// Within one layer: who may import whom. The top assembles everything.
const NEIGHBOURS: &[(&str, &str)] = &[
    ("main", "cli"),
    ("cli", "config"),
    ("cli", "daemon"),
    ("daemon", "config"),
    ("retention", "commit"),
    ("commit", "folders"),
    ("retention", "folders"),
    ("sys", "failpoint"),
];

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            files(&entry.path(), found);
        } else if entry.path().extension().is_some_and(|e| e == "rs") {
            found.push(entry.path());
        }
    }
}

/// The rooms that a file's text imports, with the line.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for (at, _) in code.match_indices("crate::") {
            let preceded = code[..at].chars().next_back();
            if preceded.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let rest = &code[at + "crate::".len()..];
            let inner =
                rest.strip_prefix('{').map_or(vec![rest], |list| list.trim_end_matches("};").split(',').collect());
            for item in inner {
                let room: String = item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                found.push((number + 1, room));
            }
        }
    }
    found
}

#[test]
fn imports_point_downward() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&src, &mut all);
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for file in all {
        let relative = file.strip_prefix(&src).unwrap();
        let first = relative.iter().next().unwrap().to_str().unwrap();
        let room = first.strip_suffix(".rs").unwrap_or(first);
        if room == "lib" {
            continue;
        }
        let Some(own) = layer(room) else {
            wrong.push(format!("{}: room `{room}` has no layer", relative.display()));
            continue;
        };
        for (line, other) in imports(&std::fs::read_to_string(&file).unwrap()) {
            let Some(theirs) = layer(&other) else { continue };
            checked += 1;
            let allowed = other == room || theirs < own || NEIGHBOURS.contains(&(room, other.as_str()));
            if !allowed {
                wrong.push(format!(
                    "{}:{line}: {room} (layer {own}) imports {other} (layer {theirs})",
                    relative.display()
                ));
            }
        }
    }
    assert!(checked > 10, "only {checked} imports found: does the search still work?");
    assert!(wrong.is_empty(), "imports that do not point downward:\n{}", wrong.join("\n"));
}

#[test]
fn an_upward_import_would_be_found() {
    let found =
        imports("use crate::fs::Thing;\n// use crate::cli;\nuse crate::{draft::X, sys};\nlet x = mycrate::fs::x;\n");
    let rooms: Vec<&str> = found.iter().map(|(_, room)| room.as_str()).collect();
    assert_eq!(rooms, ["fs", "draft", "sys"]);
    assert!(layer("fs") > layer("draft"));
}
