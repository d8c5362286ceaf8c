//! What is not about drafts is as on the bare folder: each case runs there first and then on a mount, and expects the
//! same. A case closes what it has written before it looks at it as somebody else.

#![allow(missing_docs)]

mod common;

#[path = "posix/content.rs"]
mod content;
#[path = "posix/names.rs"]
mod names;
#[path = "posix/objects.rs"]
mod objects;
#[path = "posix/rights.rs"]
mod rights;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use common::{Agent, Mount};

/// A folder that everybody may write to, bare or on a mount.
pub struct Place {
    folder: PathBuf,
}

impl Place {
    /// An application of root's in the folder.
    pub fn agent(&self, name: &str) -> Agent {
        let agent = Agent::start(name, &self.folder);
        agent.call(&["umask", "022"]).unwrap();
        agent
    }

    /// An application of a user without further groups.
    pub fn user(&self, name: &str, uid: u32, gid: u32) -> Agent {
        let agent = self.agent(name);
        agent.call(&["become", &uid.to_string(), &gid.to_string()]).unwrap();
        agent
    }
}

/// Runs a case on the bare folder and then on a mount.
fn on_both(name: &str, case: fn(&Place)) {
    let open = |folder: &PathBuf| {
        std::fs::create_dir(folder).unwrap();
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    };
    let folder = common::mount::backing_base().join(format!("m{}-{name}", std::process::id()));
    open(&folder);
    eprintln!("on the bare folder");
    case(&Place { folder: folder.clone() });
    std::fs::remove_dir_all(&folder).unwrap();
    let mount = Mount::new();
    open(&mount.raw("place"));
    eprintln!("on the mount");
    case(&Place { folder: mount.mnt().join("place") });
}

macro_rules! table {
    ($($module:ident: $($case:ident)*;)*) => { $($(
        #[test]
        fn $case() {
            on_both(stringify!($case), $module::$case);
        }
    )*)* };
}

table! {
    content:
        appending_processes_do_not_overwrite_each_other
        an_append_goes_to_the_end_after_a_truncation
        direct_and_synchronous_writes_arrive
        holes_are_found_and_punched
        truncation_shortens_and_fills_with_zeros
        a_mapping_is_the_file
        descriptors_share_their_offset
        copies_inside_the_file_system
        explicit_times_are_kept_to_the_nanosecond;
    names:
        opening_fails_as_it_should
        renaming_fails_as_it_should
        renames_exchange_and_refuse_to_replace
        names_are_bytes
        hard_links_count
        an_unlinked_file_lives_on_in_its_descriptor
        a_symlink_may_dangle
        folders_count_and_refuse
        a_listing_that_others_read_first_is_stable_too
        a_listing_is_stable_while_names_come_and_go;
    objects:
        pipes_sockets_and_devices
        a_socket_that_replaces_one_still_bound_is_found
        extended_attributes
        space_and_limits
        many_files_open_for_writing_at_once
        record_locks_and_flock_do_not_meet;
    rights:
        the_umask_and_the_mode_decide
        a_setgid_folder_gives_its_group
        a_sticky_folder_protects_names
        a_default_list_is_inherited
        set_id_bits_go_with_an_owners_write
        what_a_program_may_goes_with_the_write_of_another
        the_present_may_be_set_by_whoever_may_write
        groups_are_those_of_whom_a_thread_has_become
        an_overwrite_by_another_keeps_the_owner
        strangers_are_refused
        supplementary_groups_count;
}
