//! How late a client without commitfs may see what was committed: measured, for S61 of docs/SEMANTICS.md. What it sees is
//! whole in any case.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::wait::poll;
use crate::common::{Agent, Mount};
use crate::lab::{Lab, Plain};

const OLD: &str = "old";
const NEW: &str = "newer";

/// What a client does again and again until it sees a change.
struct Look {
    what: &'static str,
    options: &'static str,
    /// The document says that it is seen by the first look.
    at_once: bool,
    sees: Box<dyn FnMut() -> bool>,
    changed: Instant,
    looks: u32,
    after: Option<f64>,
}

impl Look {
    fn again(&mut self) -> bool {
        if self.after.is_none() {
            self.looks += 1;
            self.after = (self.sees)().then(|| self.changed.elapsed().as_secs_f64());
        }
        self.after.is_some()
    }
}

fn reads(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|seen| seen == NEW.as_bytes())
}

/// Opens a path, or finds the old version there, whole.
fn finds(path: &Path) -> bool {
    let seen = match std::fs::read(path) {
        Err(error) if error.raw_os_error() == Some(libc::ESTALE) => return false,
        other => other.unwrap(),
    };
    assert!(seen == OLD.as_bytes() || seen == NEW.as_bytes(), "neither version: {}", seen.escape_ascii());
    seen == NEW.as_bytes()
}

fn content(mut file: &File) -> Vec<u8> {
    let mut content = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut content).unwrap();
    content
}

fn is_new(path: &Path) -> bool {
    path.metadata().is_ok_and(|seen| seen.len() == NEW.len() as u64)
}

fn lists(path: &Path) -> bool {
    let mut names = std::fs::read_dir(path.parent().unwrap()).unwrap();
    names.any(|entry| entry.unwrap().path() == path) && reads(path)
}

/// What each look is at to begin with: a version, or a name that is not there.
const BEFORE: [Option<&str>; 6] = [Some(OLD), Some(OLD), Some(OLD), None, None, Some(OLD)];

/// Each look has a folder of its own, because a look at a folder makes all its names fresh, and all folders are there
/// before the first look, because a change of the folder above does the same.
struct Case<'a> {
    w: &'a Agent,
    plain: &'a Plain,
    shared: PathBuf,
    options: &'static str,
    looks: Vec<Look>,
}

impl Case<'_> {
    fn name(&self, number: usize) -> (String, PathBuf) {
        let name = format!("{}{number}/f", self.options.replace('=', "-"));
        let seen = self.plain.at(&self.shared).join(&name);
        (name, seen)
    }

    fn make_folders(&self) {
        for (number, content) in BEFORE.iter().enumerate() {
            let (name, _) = self.name(number);
            self.w.mkdir(name.trim_end_matches("/f")).unwrap();
            if let Some(content) = content {
                self.w.put(&name, content).unwrap();
            }
        }
    }

    /// The plain client knows what there is.
    fn warm(&self) {
        for (number, content) in BEFORE.iter().enumerate() {
            let (_, seen) = self.name(number);
            assert_eq!(std::fs::read(&seen).ok().as_deref(), content.map(str::as_bytes), "{}", seen.display());
            assert!(!is_new(&seen));
        }
    }

    fn look(&mut self, what: &'static str, at_once: bool, sees: impl FnMut() -> bool + 'static) {
        let (options, changed) = (self.options, Instant::now());
        self.looks.push(Look { what, options, at_once, sees: Box::new(sees), changed, looks: 0, after: None });
    }

    fn change(&mut self, kept: bool) {
        let [replaced, looked_at, held, missed, listed, gone] = std::array::from_fn(|number| self.name(number));
        self.w.put(&replaced.0, NEW).unwrap();
        self.look("replaced: open", !kept, move || finds(&replaced.1));
        self.w.put(&looked_at.0, NEW).unwrap();
        self.look("replaced: stat", false, move || is_new(&looked_at.1));
        let open = File::open(&held.1).unwrap();
        self.w.put(&held.0, NEW).unwrap();
        self.look("replaced while it is held open: open", false, move || {
            if kept {
                assert_eq!(content(&open), OLD.as_bytes(), "who holds a version keeps it");
            }
            finds(&held.1)
        });
        self.w.put(&missed.0, NEW).unwrap();
        self.look("looked for before: open", self.options == "lookupcache=positive", move || reads(&missed.1));
        self.w.put(&listed.0, NEW).unwrap();
        self.look("looked for before: listing, then open", true, move || lists(&listed.1));
        self.w.unlink(&gone.0).unwrap();
        self.look("unlinked: stat says so", false, move || !gone.1.exists());
    }
}

#[test]
fn caches_of_a_plain_client() {
    let lab = Lab::enter();
    for (retain, called) in [("0s", "not kept"), ("1h", "kept")] {
        let m = Mount::setup().options(&format!("retain={retain}")).mount();
        let w = m.agent("W");
        let clients = ["rw", "lookupcache=positive", "actimeo=1"].map(|options| (options, lab.plain(options)));
        let mut cases = clients.each_ref().map(|(options, plain)| {
            let case = Case { w: &w, plain, shared: m.elsewhere(), options, looks: Vec::new() };
            case.make_folders();
            case
        });
        cases.iter().for_each(Case::warm);
        cases.iter_mut().for_each(|case| case.change(retain != "0s"));
        let mut looks: Vec<Look> = cases.into_iter().flat_map(|case| case.looks).collect();
        let seen = poll(Duration::from_secs(180), || {
            let waiting = looks.iter_mut().filter_map(|look| (!look.again()).then_some(())).count();
            (waiting == 0).then_some(())
        });
        for look in &looks {
            let after = look.after.map_or("never".to_owned(), |after| format!("{after:.1} s"));
            println!("old version {called}, {}, {}: {after}, {} looks", look.options, look.what, look.looks);
        }
        assert!(seen.is_some(), "not within three minutes");
        for look in &looks {
            assert!(!look.at_once || look.looks == 1, "{}, {called}, {}: not at once", look.options, look.what);
        }
        drop(looks);
    }
}
