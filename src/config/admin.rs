//! Where HTTP is served over TCP, and to whom: never beyond this host without a token.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::ConfigError;
use crate::admin::http::{Options, TOKEN_MIN, Token};

/// What was said of it.
pub(super) struct Said<'a> {
    pub listen: Option<&'a str>,
    pub token_file: Option<&'a Path>,
    pub hosts: Vec<String>,
}

impl Said<'_> {
    pub(super) fn options(self) -> Result<Options, ConfigError> {
        let listen = self.listen.map(address).transpose()?;
        let token = self.token_file.map(token).transpose()?;
        if let Some(listen) = listen
            && !listen.ip().is_loopback()
            && token.is_none()
        {
            return Err(ConfigError::Usage(format!(
                "--admin {listen}: can be reached from other hosts; give --admin-token-file FILE too, or listen on 127.0.0.1"
            )));
        }
        if listen.is_none() && (token.is_some() || !self.hosts.is_empty()) {
            return Err(ConfigError::Usage(
                "--admin-token-file and --admin-host say how --admin ADDR:PORT is served, which is missing".to_owned(),
            ));
        }
        Ok(Options { listen, token, hosts: self.hosts })
    }
}

fn address(text: &str) -> Result<SocketAddr, ConfigError> {
    let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    local
        .map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
        .or_else(|| text.parse().ok())
        .ok_or_else(|| ConfigError::Usage(format!("--admin {text}: expected ADDR:PORT, as in 127.0.0.1:9321")))
}

fn token(file: &Path) -> Result<Token, ConfigError> {
    let shown = file.display();
    let wrong = |what: &str| ConfigError::Usage(format!("--admin-token-file {shown}: {what}"));
    let metadata = fs::metadata(file).map_err(|error| wrong(&error.to_string()))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(wrong("can be read or changed by others than its owner; chmod 600 it"));
    }
    let text = fs::read_to_string(file).map_err(|error| wrong(&error.to_string()))?;
    Token::new(text.trim()).ok_or_else(|| {
        wrong(&format!(
            "expected one word of at least {TOKEN_MIN} printable ASCII characters, as from openssl rand -hex 32"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn options(listen: Option<&str>, token_file: Option<&Path>) -> Result<Options, String> {
        Said { listen, token_file, hosts: Vec::new() }.options().map_err(|error| error.to_string())
    }

    #[test]
    fn beyond_this_host_only_with_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, "0123456789abcdef\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        for listen in ["127.0.0.1:0", "127.1.2.3:9", "[::1]:9000", "localhost:9000"] {
            assert!(options(Some(listen), None).unwrap().token.is_none(), "{listen}");
            assert!(options(Some(listen), Some(&file)).unwrap().token.is_some(), "{listen}");
        }
        for listen in ["0.0.0.0:9000", "[::]:9000", "192.0.2.1:9000", "[2001:db8::1]:9"] {
            assert!(options(Some(listen), None).unwrap_err().contains("--admin-token-file"), "{listen}");
            assert!(options(Some(listen), Some(&file)).is_ok(), "{listen}");
        }
        for listen in ["9000", "127.0.0.1", "localhost", "example.org:9000", "localhost:x", ""] {
            assert!(options(Some(listen), None).unwrap_err().contains("ADDR:PORT"), "{listen}");
        }
        assert!(options(None, Some(&file)).unwrap_err().contains("--admin"));
        fs::write(&file, "short\n").unwrap();
        assert!(options(Some("127.0.0.1:0"), Some(&file)).unwrap_err().contains("16"));
        for mode in [0o644, 0o640, 0o620, 0o610, 0o604, 0o666] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert!(options(Some("127.0.0.1:0"), Some(&file)).unwrap_err().contains("chmod"), "{mode:o}");
        }
        assert!(options(Some("127.0.0.1:0"), Some(&dir.path().join("none"))).is_err());
    }
}
