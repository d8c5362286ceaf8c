//! Behind a real nginx in its default settings: HTTP/1.0 to the daemon, or 1.1, and a silence longer than its patience.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::http::Server;
use crate::common::mount::signal;
use crate::common::{Mount, Setup, eventually};

/// Longer than `proxy_read_timeout`, which is 60 s.
const QUIET: Duration = Duration::from_secs(66);

struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        signal(self.0.id(), Signal::TERM);
        drop(self.0.wait());
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Listens on two ports: one speaks HTTP/1.0 to the daemon, as nginx does by default, one 1.1.
fn nginx(m: &Mount, home: &Path) -> (Nginx, [Server; 2]) {
    let Server::Tcp(upstream) = m.tcp() else { panic!("no address") };
    let ports = [free_port(), free_port()];
    let place = home.display();
    let server = |port: u16, more: &str| {
        format!("server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{upstream}; {more} }} }}")
    };
    let config = format!(
        "daemon off; worker_processes 1; pid {place}/nginx.pid; error_log {place}/nginx.log;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {place}/b; proxy_temp_path {place}/p; fastcgi_temp_path {place}/f;\n\
         uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n{}\n{}\n}}\n",
        server(ports[0], ""),
        server(ports[1], "proxy_http_version 1.1;"),
    );
    std::fs::write(home.join("nginx.conf"), config).unwrap();
    let child = ["nginx", "/usr/sbin/nginx"].into_iter().find_map(|program| {
        let mut command = Command::new(program);
        command.arg("-p").arg(home).arg("-c").arg(home.join("nginx.conf")).arg("-e").arg(home.join("nginx.log"));
        command.stdin(Stdio::null()).spawn().ok()
    });
    let child = child.expect("nginx (package nginx)");
    let nginx = Nginx(child);
    for port in ports {
        eventually("nginx listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
    (nginx, ports.map(|port| Server::Tcp(format!("127.0.0.1:{port}"))))
}

#[test]
fn events_come_through_nginx_also_after_a_long_silence() {
    let m = Setup::default().config("admin = '127.0.0.1:0'\n").mount();
    let (_nginx, servers) = nginx(&m, m.home());
    let begun = Instant::now();
    let silent = |server: &Server, version: &'static str| {
        assert_eq!(server.get("/v1/status").status, 200);
        let mut stream = server.events("", &[]);
        assert!(stream.block().unwrap().unwrap().retry, "the first bytes come at once");
        let mut heartbeats = 0;
        while begun.elapsed() < QUIET {
            let block = stream.block().unwrap_or_else(|e| panic!("{version}: {e} after {heartbeats} heartbeats"));
            let block = block.unwrap_or_else(|| panic!("{version}: ended after {heartbeats} heartbeats"));
            assert!(block.comment, "{version}: {block:?}");
            heartbeats += 1;
        }
        assert!(heartbeats >= 3, "{version}: {heartbeats}");
        stream
    };
    let streams = std::thread::scope(|scope| {
        let silences = [("1.0", &servers[0]), ("1.1", &servers[1])];
        silences.map(|(version, server)| scope.spawn(move || silent(server, version))).map(|one| one.join().unwrap())
    });
    m.agent("W").put("f", "x").unwrap();
    for mut stream in streams {
        while stream.event().data["path"] != "f" {}
    }
    let answer = servers[0].ask("POST", "/v1/quarantine/4711/discard", &[("origin", "http://evil.example")], "");
    assert!(answer.text().contains("evil.example"), "{}", answer.text());
    assert_eq!(answer.status, 403, "another site's page, also through the proxy");
}
