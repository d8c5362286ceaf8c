//! The document and the tests name the same paragraphs.

use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn s00_every_paragraph_has_a_test_and_every_test_a_paragraph() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(top.join("docs/SEMANTICS.md")).unwrap();
    let mut tests: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for file in std::fs::read_dir(top.join("tests/semantics")).unwrap().flatten() {
        for line in std::fs::read_to_string(file.path()).unwrap().lines() {
            let Some(name) = line.strip_prefix("fn s").and_then(|l| l.split('(').next()) else { continue };
            if let Some(number) = name.split('_').next().and_then(|n| n.parse().ok()) {
                tests.entry(number).or_default().push(name.to_owned());
            }
        }
    }
    tests.remove(&0);
    let mut paragraphs = Vec::new();
    for line in text.lines() {
        let number = line.strip_prefix("**S").and_then(|l| l.split_once("**")).and_then(|(n, _)| n.parse::<u32>().ok());
        paragraphs.extend(number);
    }
    let expected: Vec<u32> = (1..=paragraphs.len() as u32).collect();
    assert_eq!(paragraphs, expected, "paragraphs are numbered one by one");
    assert_eq!(tests.keys().copied().collect::<Vec<_>>(), paragraphs, "the same numbers in tests and document");
}
