//! Who is at the other end of the control socket, and what they may do.
//!
//! The kernel names the user and the primary group of whoever connected (`SO_PEERCRED`); the
//! files name the rest. They are read at each connection, so that a new member of the group
//! need not wait for a restart. Groups that only a directory service knows are not seen:
//! whoever is in one may look at most.

use std::path::PathBuf;

use super::Peer;

/// Members of this group may change things, beside root.
pub const GROUP: &str = "meterd";

/// Where users and groups are looked up.
#[derive(Clone, Debug)]
pub struct Access {
    /// As `/etc/passwd`.
    pub users: PathBuf,
    /// As `/etc/group`.
    pub groups: PathBuf,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            users: "/etc/passwd".into(),
            groups: "/etc/group".into(),
        }
    }
}

impl Access {
    /// Whoever runs as this user and primary group.
    #[must_use]
    pub fn peer(&self, uid: u32, gid: u32) -> Peer {
        let user = self.user_name(uid);
        let may_change = uid == 0
            || self.group().is_some_and(|group| {
                gid == group.gid
                    || user
                        .as_ref()
                        .is_some_and(|user| group.members.contains(user))
            });
        Peer {
            name: user.unwrap_or_else(|| format!("uid {uid}")),
            may_change,
        }
    }

    /// The group's number, where there is such a group.
    pub(super) fn group_id(&self) -> Option<u32> {
        self.group().map(|group| group.gid)
    }

    fn user_name(&self, uid: u32) -> Option<String> {
        // passwd(5): name:password:UID:GID:GECOS:directory:shell
        lines(&self.users).find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
    }

    fn group(&self) -> Option<Group> {
        // group(5): name:password:GID:user,user
        lines(&self.groups).find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == GROUP).then_some(())?;
            let gid = fields.nth(1)?.parse().ok()?;
            let members = fields.next().unwrap_or_default();
            Some(Group {
                gid,
                members: members.split(',').map(str::to_owned).collect(),
            })
        })
    }
}

struct Group {
    gid: u32,
    members: Vec<String>,
}

/// A file that cannot be read has no lines: then nobody has a name, and only root may change.
fn lines(path: &PathBuf) -> impl Iterator<Item = String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(str::to_owned)
        .collect::<Vec<_>>()
        .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(directory: &tempfile::TempDir, group: &str) -> Access {
        let users = directory.path().join("passwd");
        let groups = directory.path().join("group");
        std::fs::write(
            &users,
            "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\nbob:x:1001:900::/:/bin/sh\n\
             eve:x:1002:1002::/:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(&groups, group).unwrap();
        Access { users, groups }
    }

    #[test]
    fn root_and_members_of_the_group_may_change_and_others_may_read() {
        let directory = tempfile::tempdir().unwrap();
        let access = access(&directory, "adm:x:4:eve\nmeterd:x:900:alice,carol\n");
        for (uid, gid, name, may_change) in [
            (0, 0, "root", true),
            (1000, 1000, "alice", true), // listed
            (1001, 900, "bob", true),    // by primary group
            (1002, 1002, "eve", false),
            (4711, 4711, "uid 4711", false),
        ] {
            assert_eq!(
                access.peer(uid, gid),
                Peer {
                    name: name.to_owned(),
                    may_change
                }
            );
        }
        assert_eq!(access.group_id(), Some(900));
    }

    #[test]
    fn without_the_group_only_root_may_change() {
        let directory = tempfile::tempdir().unwrap();
        let access = access(&directory, "meterd-admins:x:900:alice\n");
        assert!(access.peer(0, 0).may_change);
        assert!(!access.peer(1000, 900).may_change);
        assert_eq!(access.group_id(), None);
    }
}
