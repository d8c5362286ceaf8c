//! The line protocol between a test and its agents: a command is one line of tokens separated by single spaces, an
//! answer is `ok TOKEN...` or `err ERRNO`. Tokens are bytes; everything but `[A-Za-z0-9._/+=,|-]` is escaped as `%xx`,
//! the empty token is `%`.

/// Changes with every change of the agent's sources, so that a test never talks to an agent left from an earlier build.
pub const FINGERPRINT: u64 = {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    hash = fnv(hash, include_bytes!("agent.rs"));
    hash = fnv(hash, include_bytes!("ops.rs"));
    hash = fnv(hash, include_bytes!("sys.rs"));
    hash = fnv(hash, include_bytes!("rounds.rs"));
    fnv(hash, include_bytes!("wire.rs"))
};

const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

/// Escapes one token.
pub fn escape(token: &[u8], line: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    if token.is_empty() {
        line.push('%');
    }
    for &byte in token {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => line.push(byte.into()),
            b'.' | b'_' | b'/' | b'+' | b'=' | b',' | b'|' | b'-' => line.push(byte.into()),
            _ => {
                line.push('%');
                line.push(HEX[usize::from(byte >> 4)].into());
                line.push(HEX[usize::from(byte & 15)].into());
            }
        }
    }
}

/// Joins tokens to one line, newline included.
pub fn join<T: AsRef<[u8]>>(tokens: &[T]) -> String {
    let mut line = String::new();
    for (i, token) in tokens.iter().enumerate() {
        if i > 0 {
            line.push(' ');
        }
        escape(token.as_ref(), &mut line);
    }
    line.push('\n');
    line
}

/// Splits one line into tokens.
pub fn split(line: &str) -> Vec<Vec<u8>> {
    line.trim_end_matches('\n').split(' ').map(unescape).collect()
}

fn unescape(token: &str) -> Vec<u8> {
    let raw = token.as_bytes();
    let mut bytes = Vec::with_capacity(raw.len());
    let mut at = 0;
    while at < raw.len() {
        if raw[at] != b'%' {
            bytes.push(raw[at]);
            at += 1;
            continue;
        }
        let digits = raw.get(at + 1..at + 3).and_then(|d| std::str::from_utf8(d).ok());
        if let Some(byte) = digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            bytes.push(byte);
        }
        at += 3;
    }
    bytes
}

/// Byte `at` of the pattern that `fill` writes and `check` expects; no two seeds agree on many bytes.
pub fn pattern(seed: u64, at: u64) -> u8 {
    let mixed = (at ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed >> 56) as u8
}

/// `len` bytes of the pattern.
#[allow(dead_code)] // for the tests' side
pub fn filled(seed: u64, len: u64) -> Vec<u8> {
    (0..len).map(|at| pattern(seed, at)).collect()
}
