//! POSIX access control lists, as far as a new file needs them: what it inherits from its folder.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use super::{Errno, Result, xattr};

/// The access list of a file on NFS 4, of whatever kind the server has.
pub const NFS4: &str = "system.nfs4_acl";

/// Who may do what with a file, in the kernel's encoding.
pub const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;

const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The default list of a folder, in the kernel's encoding; `None` where there is none or the file system has no lists.
pub fn default_of(folder: impl AsFd) -> Result<Option<Vec<u8>>> {
    match xattr::get(folder, OsStr::new(DEFAULT)) {
        Ok(list) if list.len() > HEADER => Ok(Some(list)),
        Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Gives a new file the list that its folder's default list and the requested mode make together.
pub fn inherit(file: impl AsFd, default: &[u8], mode: u32) -> Result<()> {
    let list = masked(default, mode).ok_or(Errno::INVAL)?;
    xattr::set(file, OsStr::new(ACCESS), &list, 0)
}

/// The default list with owner, mask (or group, without a mask) and other limited by `mode`.
fn masked(default: &[u8], mode: u32) -> Option<Vec<u8>> {
    let version = u32::from_le_bytes(default.get(..HEADER)?.try_into().ok()?);
    if version != VERSION || !(default.len() - HEADER).is_multiple_of(ENTRY) {
        return None;
    }
    let mut list = default.to_vec();
    let has_mask = list[HEADER..].chunks_exact(ENTRY).any(|entry| tag(entry) == MASK);
    for entry in list[HEADER..].chunks_exact_mut(ENTRY) {
        let limit = match tag(entry) {
            USER_OBJ => mode >> 6,
            MASK => mode >> 3,
            GROUP_OBJ if !has_mask => mode >> 3,
            OTHER => mode,
            _ => 0o7,
        };
        entry[2] &= (limit & 0o7) as u8;
    }
    Some(list)
}

fn tag(entry: &[u8]) -> u16 {
    u16::from_le_bytes([entry[0], entry[1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: u16, perm: u16) -> Vec<u8> {
        [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &u32::MAX.to_le_bytes()].concat()
    }

    #[test]
    fn the_mode_limits_owner_mask_and_other() {
        let named = 0x02;
        let entries = [(USER_OBJ, 7), (named, 7), (GROUP_OBJ, 7), (MASK, 7), (OTHER, 7)];
        let list: Vec<u8> =
            VERSION.to_le_bytes().into_iter().chain(entries.iter().flat_map(|&(t, p)| entry(t, p))).collect();
        let masked = masked(&list, 0o640).unwrap();
        let perms: Vec<u8> = masked[HEADER..].chunks(ENTRY).map(|e| e[2]).collect();
        assert_eq!(perms, [6, 7, 7, 4, 0]);
    }
}
