//! Tests of the rules.

use super::*;
use proptest::prelude::*;

fn rules(text: &str) -> Rules {
    let head = "on_kill = 'quarantine'\non_failure_exit = 'publish'\nretain = '60s'\n";
    Rules::from_toml(&format!("{head}{text}")).unwrap()
}

#[test]
fn built_in_rules_look_at_the_last_component() {
    let rules = Rules::default();
    let direct: [&[u8]; 10] = [
        b"a.lock",
        b"d/e/a.pid",
        b".log",
        b"x/\xff\xfe.log",
        b"app.sqlite",
        b"app.sqlite3-wal",
        b"a.db",
        b"d/a.db-wal",
        b"a-shm",
        b"a\nb-journal",
    ];
    for path in direct {
        assert_eq!(rules.decide(path).mode, Mode::Direct, "{}", path.escape_ascii());
    }
    let atomic: [&[u8]; 7] = [b"", b"a", b"x.log/file", b"log", b"a.lockx", b"a.db/x", b"\xff\xfe"];
    for path in atomic {
        assert_eq!(rules.decide(path).mode, Mode::Atomic, "{}", path.escape_ascii());
    }
}

#[test]
fn the_first_match_wins_and_the_users_come_first() {
    let rules = rules(
        "[[rule]]\nglob = 'keep.log'\ndone_marker = true\n\
         [[rule]]\nglob = 'cache/**'\nmode = 'direct'\n\
         [[rule]]\nglob = 'cache/x'\nretain = 0\n\
         [[rule]]\nglob = '*.tmp'\nretain = '2h'\non_kill = 'publish'\non_failure_exit = 'quarantine'\n",
    );
    let keep = rules.decide(b"d/keep.log");
    assert_eq!((keep.mode, keep.done_marker), (Mode::Atomic, true));
    assert!(keep.source.contains("rule 1") && keep.source.contains("keep.log"), "{}", keep.source);
    assert_eq!(rules.decide(b"cache/x").mode, Mode::Direct);
    assert_eq!(rules.decide(b"cache/d/x.tmp").mode, Mode::Direct);
    assert_eq!(rules.decide(b"d/cache/x").mode, Mode::Atomic);
    let tmp = rules.decide(b"a.tmp");
    assert_eq!(tmp.retain, Duration::from_secs(7200));
    assert_eq!((tmp.on_kill, tmp.on_failure_exit), (OnKill::Publish, OnFailureExit::Quarantine));
    assert_eq!(rules.decide(b"other").source, "default: no rule matches");
}

#[test]
fn the_content_is_asked_only_where_no_rule_matches() {
    let rules = rules("[[rule]]\nglob = 'kept'\n");
    assert_eq!(rules.decide_for(b"store", || true).mode, Mode::Direct);
    assert_eq!(rules.decide_for(b"store", || false).mode, Mode::Atomic);
    for (path, mode) in [(&b"kept"[..], Mode::Atomic), (b"a.db", Mode::Direct)] {
        assert_eq!(rules.decide_for(path, || panic!("asked")).mode, mode);
    }
}

#[test]
fn a_glob_with_a_slash_is_the_whole_path() {
    let rules = rules(
        "[[rule]]\nglob = '/top'\nmode = 'direct'\n[[rule]]\nglob = 'd/*'\nmode = 'direct'\n\
         [[rule]]\nglob = '**/e/f'\nmode = 'direct'\n",
    );
    for (path, mode) in [
        ("top", Mode::Direct),
        ("d/top", Mode::Direct),
        ("x/top", Mode::Atomic),
        ("d/x/y", Mode::Atomic),
        ("e/f", Mode::Direct),
        ("a/b/e/f", Mode::Direct),
    ] {
        assert_eq!(rules.decide(path.as_bytes()).mode, mode, "{path}");
    }
}

#[test]
fn rules_survive_as_text() {
    let rules = rules("[[rule]]\nglob = '*.x\\'\nmode = 'direct'\nretain = '1500ms'\n".replace("\\'", "'").as_str());
    let again = Rules::from_toml(&rules.to_toml()).unwrap();
    assert_eq!(again.decisions, rules.decisions);
    assert_eq!(Rules::from_toml(&Rules::default().to_toml()).unwrap().decisions, Rules::default().decisions);
}

#[test]
fn wrong_rules_are_named() {
    for glob in ["", "folder/", "a[", "{a", "./a/*", "a//b", "//a", "../b", "a/./b", "a/..", ".", ".."] {
        let error = compile(glob).unwrap_err().to_string();
        assert!(error.contains(&format!("{glob:?}")), "{error}");
    }
    for glob in ["...", ".a/*", "a/.b/..c", "/a", "**/..a", "a/**"] {
        assert!(compile(glob).is_ok(), "{glob}");
    }
    assert!("5x".parse::<Span>().is_err());
    assert!("".parse::<Span>().is_err());
    assert!("99999999999999999999d".parse::<Span>().is_err());
    assert_eq!("36500d".parse::<Span>().unwrap().0, Duration::from_secs(36_500 * 86_400));
    assert!("36501d".parse::<Span>().unwrap_err().contains("36500d is the most"));
    assert!(Span::try_from(span::Written::Seconds(i64::MAX as u64)).unwrap_err().contains("too long"));
    assert_eq!("5m".parse::<Span>().unwrap().0, Duration::from_secs(300));
}

proptest! {
    #[test]
    fn any_bytes_get_a_decision(path in prop::collection::vec(any::<u8>(), 0..64)) {
        let rules = Rules::default();
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(b"");
        let direct = [&b".lock"[..], b".pid", b".log", b".db", b"-wal", b"-shm", b"-journal"]
            .iter()
            .any(|end| name.ends_with(end))
            || name.windows(7).any(|part| part == b".sqlite");
        prop_assert_eq!(rules.decide(&path).mode == Mode::Direct, direct);
    }
}
