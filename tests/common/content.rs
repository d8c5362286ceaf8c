//! Content that can be verified without knowing what it should be: one or more records, each with a header that says
//! how long it is, how many records its version has, and a checksum over everything.

use xxhash_rust::xxh3::xxh3_64;

use super::wire;

/// Bytes of a record's header, the newline included.
pub const HEADER: usize = 86;

/// What a record says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which name it was made for.
    pub name: u64,
    /// Which version of that name.
    pub generation: u64,
    /// Position of the record in its batch.
    pub index: u64,
    /// Records written by one open.
    pub of: u64,
    /// Bytes of its body.
    pub len: u64,
}

/// A number for a name, to tell one file's content from another's.
pub fn name_number(name: &str) -> u64 {
    xxh3_64(name.as_bytes()) >> 24
}

/// One record, header and body.
pub fn record(header: Header) -> Vec<u8> {
    let Header { name, generation, index, of, len } = header;
    let text = format!("{name:010x} {generation:010} {index:06} {of:06} {len:012}");
    let mut bytes = format!("CFS1 {text} {:016x} {:014}\n", 0, 0).into_bytes();
    let seed = name ^ generation.rotate_left(17) ^ index;
    bytes.extend((0..len).map(|at| wire::pattern(seed, at)));
    let sum = checksum(&text, &bytes[HEADER..]);
    let head = format!("CFS1 {text} {sum:016x} {:014}\n", 0);
    bytes[..HEADER].copy_from_slice(head.as_bytes());
    bytes
}

/// All records of one version in one piece.
pub fn version(name: &str, generation: u64, records: u64, len: u64) -> Vec<u8> {
    let one = |index| record(Header { name: name_number(name), generation, index, of: records, len });
    (0..records).flat_map(one).collect()
}

fn checksum(text: &str, body: &[u8]) -> u64 {
    xxh3_64(body) ^ xxh3_64(text.as_bytes())
}

/// Takes content apart; says what is wrong with it. Complete content ends with the last record of a batch.
pub fn verify(mut bytes: &[u8]) -> Result<Vec<Header>, String> {
    let total = bytes.len();
    let mut found: Vec<Header> = Vec::new();
    if bytes.is_empty() {
        return Err("empty".to_owned());
    }
    while !bytes.is_empty() {
        let at = total - bytes.len();
        let wrong = |what: &str| format!("{what} at byte {at} of {total}, after {} records", found.len());
        let head = bytes.get(..HEADER).ok_or_else(|| wrong("a cut header"))?;
        let head =
            std::str::from_utf8(head).ok().and_then(|h| h.strip_prefix("CFS1 ")).ok_or_else(|| wrong("no header"))?;
        let words: Vec<&str> = head.trim_end().split(' ').collect();
        let number =
            |i: usize| words.get(i).and_then(|w| w.parse::<u64>().ok()).ok_or_else(|| wrong("a broken header"));
        let name = u64::from_str_radix(words[0], 16).map_err(|_| wrong("a broken header"))?;
        let header = Header { name, generation: number(1)?, index: number(2)?, of: number(3)?, len: number(4)? };
        let body = usize::try_from(header.len).ok().and_then(|len| bytes.get(HEADER..HEADER + len));
        let body = body.ok_or_else(|| wrong("a cut record"))?;
        let text = words[..5].join(" ");
        let sum = words.get(5).and_then(|w| u64::from_str_radix(w, 16).ok()).ok_or_else(|| wrong("a broken header"))?;
        if checksum(&text, body) != sum {
            return Err(wrong("a wrong checksum"));
        }
        let expected = match found.last() {
            Some(last) if last.index + 1 < last.of => (last.generation, last.index + 1),
            Some(last) => (last.generation + 1, 0),
            None => (header.generation, 0),
        };
        if (header.generation, header.index) != expected {
            return Err(wrong(&format!(
                "record {}.{} instead of {}.{}",
                header.generation, header.index, expected.0, expected.1
            )));
        }
        if found.first().is_some_and(|first| first.name != name) {
            return Err(wrong("another name's record"));
        }
        found.push(header);
        bytes = &bytes[HEADER + body.len()..];
    }
    match found.last() {
        Some(last) if last.index + 1 == last.of => Ok(found),
        _ => Err(format!("{} records, the last of its batch is missing", found.len())),
    }
}

/// The newest generation in verified content.
pub fn newest(headers: &[Header]) -> u64 {
    headers.last().map_or(0, |h| h.generation)
}
