use super::*;
use crate::rules::{Mode, OnKill};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["export", "mnt"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Place { dir }
    }

    fn args(&self) -> MountArgs {
        MountArgs {
            source: self.dir.path().join("export"),
            mountpoint: self.dir.path().join("mnt"),
            foreground: false,
            options: Vec::new(),
            config: None,
            state_dir: Some(self.dir.path().join("state/new")),
            admin: None,
            admin_token_file: None,
            admin_host: Vec::new(),
            log_format: None,
            settle: None,
            fake: false,
            sloppy: false,
            daemonized: false,
        }
    }

    fn config(&self, text: &str) -> MountArgs {
        let file = self.dir.path().join("c.toml");
        fs::write(&file, text).unwrap();
        MountArgs { config: Some(file), ..self.args() }
    }
}

fn usage(args: &MountArgs) -> String {
    match Config::from_args(args) {
        Err(ConfigError::Usage(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn defaults() {
    let place = Place::new();
    let config = Config::from_args(&place.args()).unwrap();
    assert_eq!(config.source, fs::canonicalize(place.dir.path()).unwrap().join("export"));
    assert_eq!((config.threads, config.commit_workers), (8, 16));
    assert_eq!((config.ttl, config.reaper.retain), (Duration::from_secs(1), Duration::from_secs(60)));
    assert!(config.default_permissions && config.passthrough && config.writeback && !config.read_only);
    assert_eq!(config.allow_other, is_root());
    assert!(!config.state_dir.exists());
}

#[test]
fn who_lets_others_in_has_the_kernel_check_what_they_may() {
    let place = Place::new();
    let with = |options: &str| MountArgs { options: vec![options.to_owned()], ..place.args() };
    assert!(usage(&with("allow_other,default_permissions=off")).contains("add allow_other=off"));
    assert!(Config::from_args(&with("allow_other=off,default_permissions=off")).is_ok());
}

#[test]
fn a_folder_may_be_mounted_over_itself() {
    let place = Place::new();
    let args = MountArgs { mountpoint: place.dir.path().join("export"), ..place.args() };
    let config = Config::from_args(&args).unwrap();
    assert_eq!(config.source, config.mountpoint);
}

#[test]
fn the_option_list_overrides_the_file() {
    let place = Place::new();
    let mut args = place.config(
        "threads = 3\nttl = '5s'\nretain = 10\nread_only = true\noptions = ['noatime']\non_kill = 'publish'\n\
         [[rule]]\nglob = '*.x'\nmode = 'direct'\n",
    );
    args.options =
        vec!["rw,nodev,threads=4,freshness=ttl".to_owned(), "nopassthrough,writeback=off,_netdev".to_owned()];
    let config = Config::from_args(&args).unwrap();
    assert_eq!((config.threads, config.ttl, config.reaper.retain.as_secs()), (4, Duration::from_secs(5), 10));
    assert_eq!(config.kernel_options, ["noatime", "nodev"]);
    assert!(!config.read_only && !config.passthrough && !config.writeback);
    assert_eq!((config.freshness, config.rules.decide(b"a").on_kill), (Freshness::Ttl, OnKill::Publish));
    assert_eq!(config.rules.decide(b"a.x").mode, Mode::Direct);
    assert!(config.rules_toml.contains("*.x"));
}

#[test]
fn what_is_wrong_in_the_file_is_named_with_file_line_and_key() {
    let place = Place::new();
    for (text, line, word) in [
        ("threads = 2\nthreds = 3\n", 2, "threds"),
        ("threads = 'many'\n", 1, "threads"),
        ("\n\nthreads = 0\n", 3, "threads"),
        ("ttl = '5x'\n", 1, "ttl"),
        ("retain = -1\n", 1, "retain: expected a length of time"),
        ("retain = 1.5\n", 1, "retain: expected a length of time"),
        ("on_kill = 'explode'\n", 1, "on_kill"),
        ("on_kill = 5\n", 1, "on_kill: expected a word in quotes"),
        ("[[rule]]\nglob = 'a'\nmode = true\n", 3, "mode: expected a word in quotes"),
        ("[[rule]]\nglob = './a/*'\n", 2, "glob"),
        ("options = ['nodev', 'nosuch']\n", 1, "options"),
        ("[[rule]]\nmode = 'direct'\nglob = 'a['\n", 3, "glob"),
        ("[[rule]]\nglob = 'a'\ncolour = 1\n", 3, "colour"),
        ("a = = b\n", 1, "c.toml"),
    ] {
        let message = usage(&place.config(text));
        assert!(message.contains(&format!("c.toml:{line}: ")), "{text:?}: {message}");
        assert!(message.contains(word), "{text:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    let missing = MountArgs { config: Some(place.dir.path().join("no.toml")), ..place.args() };
    assert!(usage(&missing).contains("no.toml"));
}

#[test]
fn what_a_rule_says_in_vain_is_refused() {
    let place = Place::new();
    for word in ["done_marker = true", "commit = 'release'"] {
        let message = usage(&place.config(&format!("[[rule]]\nglob = 'logs/*'\nmode = 'direct'\n{word}\n")));
        let said = word.replace('\'', "\"");
        assert!(message.contains("logs/*") && message.contains(&said) && message.contains("direct"), "{message}");
        assert!(Config::from_args(&place.config(&format!("[[rule]]\nglob = 'logs/*'\n{word}\n"))).is_ok());
    }
    // What was unlinked can be kept, however it was written.
    let kept = place.config("[[rule]]\nglob = 'logs/*'\nmode = 'direct'\nretain = '1h'\n");
    assert!(Config::from_args(&kept).is_ok());
}

#[test]
fn wrong_options_are_named() {
    let place = Place::new();
    for option in [
        "nosuch",
        "threads=0",
        "threads=x",
        "ttl=",
        "on_kill=maybe",
        "passthrough=7",
        "retain",
        "ro=1",
        "lease=0",
        "lease=999ms",
    ] {
        let args = MountArgs { options: vec![format!("rw,{option}")], ..place.args() };
        let message = usage(&args);
        assert!(message.contains(option.split('=').next().unwrap()), "{option}: {message}");
    }
}

#[test]
fn what_is_unknown_is_tolerated_where_mount_asks_for_it() {
    let place = Place::new();
    let options = vec!["strictatime,norelatime,nosuch,threads=4".to_owned()];
    let args = MountArgs { options: options.clone(), sloppy: true, ..place.args() };
    assert_eq!(Config::from_args(&args).unwrap().threads, 4);
    assert!(usage(&MountArgs { options, ..place.args() }).contains("nosuch"));
    for options in ["threads=x", "remount,ro"] {
        let args = MountArgs { options: vec![options.to_owned()], sloppy: true, ..place.args() };
        assert!(usage(&args).contains(options.split(',').next().unwrap()));
    }
}

#[test]
fn wrong_folders_are_named() {
    let place = Place::new();
    let dir = place.dir.path();
    fs::write(dir.join("file"), "").unwrap();
    fs::create_dir(dir.join("export/inner")).unwrap();
    fs::create_dir_all(dir.join("export/.commitfs/stage")).unwrap();
    for (args, word) in [
        (MountArgs { source: dir.join("none"), ..place.args() }, "none: does not exist"),
        (MountArgs { source: dir.join("file"), ..place.args() }, "file: is not a folder"),
        (MountArgs { source: dir.join("export/.commitfs"), ..place.args() }, "keeps for itself"),
        (MountArgs { source: dir.join("export/.commitfs/stage"), ..place.args() }, "keeps for itself"),
        (MountArgs { mountpoint: dir.join("none"), ..place.args() }, "none: does not exist"),
        (MountArgs { mountpoint: dir.join("file"), ..place.args() }, "file: is not a folder"),
        (MountArgs { mountpoint: dir.join("export/inner"), ..place.args() }, "inside the source"),
        (MountArgs { state_dir: Some(dir.join("export/state")), ..place.args() }, "inside the source"),
        (MountArgs { state_dir: Some(dir.join("mnt/x/y")), ..place.args() }, "inside the mount point"),
        (MountArgs { state_dir: Some(dir.join("file")), ..place.args() }, "file: is not a folder"),
    ] {
        let message = usage(&args);
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn state_folders_of_different_exports_differ() {
    let Some(a) = default_state_dir(Path::new("/a/da ta")) else { return };
    let b = default_state_dir(Path::new("/b/da ta")).unwrap();
    assert_ne!(a, b);
    assert!(a.file_name().unwrap().to_str().unwrap().starts_with("da_ta-"), "{a:?}");
    assert!(default_state_dir(Path::new("/")).is_some());
}
