//! Special files, attributes, space, many descriptors, locks.

use super::Place;

pub fn pipes_sockets_and_devices(p: &Place) {
    let a = p.agent("a");
    a.sh("mkfifo p && { echo through >p & } && [ \"$(cat p)\" = through ] && wait");
    let script = r#"
import socket
server = socket.socket(socket.AF_UNIX); server.bind("sock"); server.listen()
client = socket.socket(socket.AF_UNIX); client.connect("sock")
peer = server.accept()[0]; client.send(b"hello"); assert peer.recv(9) == b"hello"
"#;
    let (status, _, complaint) = a.run("python3", script).unwrap();
    assert_eq!(status, "0", "{complaint}");
    a.sh("mknod null c 1 3 && [ \"$(stat -c '%F %t %T' null)\" = 'character special file 1 3' ]");
    a.sh("mknod disk b 7 300 && [ \"$(stat -c '%F %t %T' disk)\" = 'block special file 7 12c' ]");
    a.sh("[ -p p -a -S sock ] && mv p q && ln q r && chmod 600 r && rm q && [ $(stat -c %a r) = 600 ]");
    let fd = a.open("made", "r|creat").unwrap();
    assert_eq!(a.fstat(fd).unwrap().size, 0);
}

/// As a server is restarted while the one before still has connections; its inode number is given out again at once.
pub fn a_socket_that_replaces_one_still_bound_is_found(p: &Place) {
    let a = p.agent("a");
    let script = r#"
import os, socket
def server():
    server = socket.socket(socket.AF_UNIX); server.bind("sock"); server.listen()
    return server
before = []
for round in range(10):
    before.append(server())
    os.stat("sock")
    client = socket.socket(socket.AF_UNIX); client.connect("sock")
    before[-1].accept()
    os.unlink("sock")
"#;
    let (status, _, complaint) = a.run("python3", script).unwrap();
    assert_eq!(status, "0", "{complaint}");
}

pub fn extended_attributes(p: &Place) {
    let a = p.agent("a");
    a.put("f", "x").unwrap();
    a.mkdir("d").unwrap();
    for path in ["f", "d"] {
        assert_eq!(a.xattr(path, "user.a").unwrap_err(), "ENODATA");
        a.set_xattr(path, "user.a", "one").unwrap();
        a.set_xattr(path, "user.empty", "").unwrap();
        a.set_xattr(path, "trusted.t", "root's").unwrap();
        assert_eq!(a.xattr(path, "user.a").unwrap(), b"one");
        assert_eq!(a.xattr(path, "user.empty").unwrap(), b"");
        let mut names = a.xattrs(path).unwrap();
        names.sort();
        assert_eq!(names, [b"trusted.t".to_vec(), b"user.a".to_vec(), b"user.empty".to_vec()]);
        a.call(&["removexattr", path, "user.a"]).unwrap();
        assert_eq!(a.call(&["removexattr", path, "user.a"]).unwrap_err(), "ENODATA");
    }
    let user = p.user("u", 1000, 1000);
    assert_eq!(user.set_xattr("f", "user.a", "no").unwrap_err(), "EACCES");
    assert_eq!(user.set_xattr("f", "trusted.a", "no").unwrap_err(), "EPERM");
    assert_eq!(user.xattrs("f").unwrap(), [b"user.empty".to_vec()], "of the others only root is told");
    a.append("f", "y").unwrap();
    assert_eq!(a.xattr("f", "trusted.t").unwrap(), b"root's");
    let fd = a.open("g", "w|creat").unwrap();
    a.set_xattr("g", "user.early", "on a file that is being written").unwrap();
    a.write(fd, "z").unwrap();
    a.close(fd).unwrap();
    assert_eq!(a.xattr("g", "user.early").unwrap(), b"on a file that is being written");
}

pub fn space_and_limits(p: &Place) {
    let a = p.agent("a");
    assert_eq!(a.sh("stat -f -c '%l' .").trim(), "255");
    let blocks: u64 = a.sh("stat -f -c %b .").trim().parse().unwrap();
    let above: u64 = a.sh("df --output=size -B1 . | tail -1").trim().parse().unwrap();
    assert!(blocks > 0 && above > 0);
    assert_eq!(a.sh("getconf NAME_MAX .").trim(), "255");
    a.sh("sync -f . && sync .");
}

pub fn many_files_open_for_writing_at_once(p: &Place) {
    let a = p.agent("a");
    let script = r#"
import os, resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
many = 1000
fds = [os.open(f"f{i}", os.O_RDWR | os.O_CREAT) for i in range(many)]
for i, fd in enumerate(fds):
    os.write(fd, b"%d" % i)
for fd in fds:
    os.close(fd)
for i in range(many):
    with open(f"f{i}", "rb") as f:
        assert f.read() == b"%d" % i, i
assert len(os.listdir(".")) == many
"#;
    let (status, _, complaint) = a.run("python3", script).unwrap();
    assert_eq!(status, "0", "{complaint}");
}

pub fn record_locks_and_flock_do_not_meet(p: &Place) {
    let (a, b) = (p.agent("a"), p.agent("b"));
    a.put("f", "x").unwrap();
    let (fa, fb) = (a.open("f", "rw").unwrap(), b.open("f", "rw").unwrap());
    a.flock(fa).unwrap();
    a.lock(fa, "write", 0, 0).unwrap();
    a.lock(fa, "unlock", 0, 0).unwrap();
    b.lock(fb, "write", 0, 0).unwrap();
    assert_eq!(b.flock(fb).unwrap_err(), "EAGAIN");
    let child = a.fork("child");
    child.flock_how(fa, "unlock").unwrap();
    b.flock(fb).unwrap();
    b.flock_how(fb, "share").unwrap();
    a.flock_how(fa, "share").unwrap();
    assert_eq!(a.flock(fa).unwrap_err(), "EAGAIN");
    child.exit(0);
}
