//! What a publish asks the server for.

use rustix::fs::XattrFlags;

use crate::common::Mount;
use crate::lab::Lab;

const TIMES: u64 = 50;

/// Requests per publish, without those that come by the clock; docs/PERFORMANCE.md says what each is for.
fn per_publish(lab: &Lab, publish: impl Fn(u64)) -> f64 {
    // The staging folder, the first of everything.
    (0..5).for_each(&publish);
    let before = lab.requests();
    (5..5 + TIMES).for_each(publish);
    (lab.requests() - before) as f64 / TIMES as f64
}

#[test]
fn a_publish_asks_for_what_it_needs_and_no_more() {
    let lab = Lab::enter();
    let m = Mount::new();
    let w = m.agent("W");
    let (content, commits) = (vec![7; 16 << 10], lab.count("COMMIT"));
    let new = per_publish(&lab, |number| w.put(format!("f{number}").as_str(), &content).unwrap());
    w.put("f", &content).unwrap();
    let again = per_publish(&lab, |_| w.put("f", &content).unwrap());
    eprintln!("{new} requests for a new name, {again} for one that is there");
    // One each for what the daemon and the client do besides: the lease, folder totals, the state of an open that goes on.
    assert!(new <= 8.5, "{new} for a new name");
    let most = if lab.is_v3() { 13.0 } else { 15.5 };
    assert!(again <= most, "{again} for a name that is there");
    assert_eq!(lab.count("COMMIT"), commits, "what fits into one request is made durable by it");
}

#[test]
fn a_list_that_the_mode_does_not_imply_survives_a_replacement_and_one_that_it_does_is_not_sent() {
    let lab = Lab::enter();
    let m = Mount::new();
    let w = m.agent("W");
    let list_of = |name: &str| {
        let mut list = vec![0; 4096];
        let read = rustix::fs::getxattr(m.raw(name), "system.nfs4_acl", &mut list);
        read.map(|len| list[..len].to_vec())
    };
    w.put("plain", "old").unwrap();
    let Ok(plain) = list_of("plain") else {
        assert!(lab.is_v3(), "NFS 4 has access lists");
        return;
    };
    let before = lab.count("SETACL");
    for content in ["new", "newer"] {
        w.put("plain", content).unwrap();
        assert_eq!(list_of("plain").unwrap(), plain);
    }
    assert_eq!(lab.count("SETACL"), before, "the list of any new file was set again");

    w.put("listed", "old").unwrap();
    w.chmod("listed", 0o660).unwrap();
    let on_server = lab.on_server(m.export()).join("listed");
    rustix::fs::setxattr(on_server, "system.posix_acl_access", &posix_list(4321), XattrFlags::empty()).unwrap();
    let listed = list_of("listed").unwrap();
    assert_ne!(listed, plain);
    for how in ["w|trunc", "w|append", "rw"] {
        let fd = w.open("listed", how).unwrap();
        w.write(fd, "new").unwrap();
        w.close(fd).unwrap();
        assert_eq!(list_of("listed").unwrap(), listed, "{how}");
    }
    // A mode of its own has a list of its own.
    w.chmod("plain", 0o600).unwrap();
    let private = list_of("plain").unwrap();
    w.put("plain", "private").unwrap();
    assert_eq!(list_of("plain").unwrap(), private);
}

/// `u::rw-,u:UID:rw-,g::rw-,m::rw-,o::---`
fn posix_list(uid: u32) -> Vec<u8> {
    let entries = [(1_u16, 6_u16, u32::MAX), (2, 6, uid), (4, 6, u32::MAX), (0x10, 6, u32::MAX), (0x20, 0, u32::MAX)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(perm.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}
