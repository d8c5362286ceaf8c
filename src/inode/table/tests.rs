use std::fs;

use super::*;

fn table(dir: &std::path::Path) -> NodeTable {
    NodeTable::new(at::open_dir(rustix::fs::CWD, dir.as_os_str()).unwrap(), 100).unwrap()
}

#[test]
fn a_node_lives_as_long_as_its_lookups() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    fs::write(dir.path().join("f"), "1").unwrap();
    let table = table(dir.path());
    let root = table.root().clone();
    let (a, stat) = table.lookup(&root, OsStr::new("f")).unwrap();
    let (b, _) = table.lookup(&root, OsStr::new("f")).unwrap();
    assert!(Arc::ptr_eq(&a, &b));
    assert_eq!(a.id, stat.ino);
    table.forget(a.id, 1);
    assert!(table.get(a.id).is_ok());
    table.forget(a.id, 1);
    assert_eq!(table.get(a.id).unwrap_err(), Errno::STALE);
    assert_eq!(table.len(), 1);
}

#[test]
fn a_file_changed_from_outside_is_a_new_version_with_a_new_id() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    fs::write(dir.path().join("f"), "1").unwrap();
    let table = table(dir.path());
    let root = table.root().clone();
    let (old, _) = table.lookup(&root, OsStr::new("f")).unwrap();
    fs::write(dir.path().join("f"), "longer").unwrap();
    let (new, stat) = table.lookup(&root, OsStr::new("f")).unwrap();
    assert_ne!(old.id, new.id);
    assert_eq!(new.key, Key::of(&stat));
    table.forget(old.id, 1);
    let (again, _) = table.lookup(&root, OsStr::new("f")).unwrap();
    assert_eq!(again.id, new.id, "forgetting the old version does not touch the new one");
}

#[test]
fn only_names_of_entries_are_looked_up() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    fs::create_dir_all(dir.path().join("d/e")).unwrap();
    let table = table(dir.path());
    let (d, _) = table.lookup(table.root(), OsStr::new("d")).unwrap();
    for name in ["", ".", "..", "e/", "../d", "/"] {
        assert_eq!(table.lookup(&d, OsStr::new(name)).unwrap_err(), Errno::INVAL, "{name:?}");
    }
    assert_eq!(d.path(), b"d");
}

#[test]
fn no_folder_comes_to_lie_in_itself() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    let table = table(dir.path());
    let (a, stat) = table.lookup(table.root(), OsStr::new("a")).unwrap();
    let (b, _) = table.lookup(&a, OsStr::new("b")).unwrap();
    a.set_link(&a, OsStr::new("."), &stat);
    assert_eq!(a.path(), b"a");
    // Turned upside down from outside; `b` is known already, and its new place is not looked up.
    fs::rename(dir.path().join("a/b"), dir.path().join("b")).unwrap();
    fs::rename(dir.path().join("a"), dir.path().join("b/a")).unwrap();
    table.lookup(&b, OsStr::new("a")).unwrap();
    assert_eq!((a.path(), b.path()), (b"a".to_vec(), b"a/b".to_vec()));
    table.lookup(table.root(), OsStr::new("b")).unwrap();
    table.lookup(&b, OsStr::new("a")).unwrap();
    assert_eq!((a.path(), b.path()), (b"b/a".to_vec(), b"b".to_vec()));
}

#[test]
fn folders_lie_deeper_in_each_other_than_a_stack_is() {
    const DEPTH: usize = 5000;
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let (table, name) = (table(dir.path()), OsStr::new("d"));
    let mut way = vec![table.root().clone()];
    for _ in 0..DEPTH {
        let above = &way[way.len() - 1];
        at::mkdir(table.fd(above).unwrap(), name, 0o755).unwrap();
        way.push(table.lookup(above, name).unwrap().0);
    }
    let last = way.pop().unwrap();
    let (above, root) = (way.pop().unwrap(), table.root().clone());
    way.iter().skip(1).chain([&above, &last]).for_each(|node| table.forget(node.id, 1));
    way.clear();
    let deep = || {
        assert_eq!(last.path().len(), 2 * DEPTH - 1);
        assert_eq!(table.fd_by_name(&last).map(drop), Ok(()));
        assert!(last.is_below(&root));
        drop((above, last));
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new().stack_size(64 * 1024).spawn_scoped(scope, deep).unwrap().join().unwrap();
    });
    assert_eq!(Arc::strong_count(&root), 4, "nothing below is left");
    // From the top, as removing it level by level would go down by a call each.
    let (top, up) = (table.fd(&root).unwrap(), OsStr::new("up"));
    for _ in 1..DEPTH {
        at::rename(at::open_path(&top, name).unwrap(), name, &top, up, at::RenameFlags::empty()).unwrap();
        at::rmdir(&top, name).unwrap();
        at::rename(&top, up, &top, name, at::RenameFlags::empty()).unwrap();
    }
}

#[test]
fn rounds_of_sync_serve_everybody() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let table = table(dir.path());
    let root = table.root();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    root.as_folder().unwrap().sync(table.fd(root).unwrap()).unwrap();
                }
            });
        }
    });
}
