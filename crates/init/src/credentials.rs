//! Who runs a program: `user[:group]`, looked up in the image's `/etc/passwd` and `/etc/group` (OCI image
//! specification, `config.User`). The files are read by hand: a static program has no name service.

use std::{fs::File, io::Read};

/// A user as the kernel knows one, and where home is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: String,
}

/// The most bytes of either file that are looked at.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The most groups that a process is given.
const MAX_GROUPS: usize = 1024;

/// Numbers above are not given to users.
const MAX_NUMBER: u32 = i32::MAX as u32;

/// Looks `user[:group]` up in the files of the root file system.
pub fn look_up(user: &str) -> Result<Credentials, String> {
    resolve(user, &read("/etc/passwd"), &read("/etc/group"))
}

fn read(path: &str) -> String {
    let mut bytes = Vec::new();
    let _ = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Resolves `user[:group]` by the content of `/etc/passwd` and `/etc/group`.
///
/// Without a group, it is the user's own, with those that list the user as a member; a number that is no known
/// user's gets group 0, as with Docker. With a group, it is that one alone.
pub fn resolve(user: &str, passwd: &str, group: &str) -> Result<Credentials, String> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let known = find_user(user, passwd);
    let mut credentials = match (&known, number(user)) {
        (Some(known), _) => {
            Credentials { uid: known.uid, gid: known.gid, groups: Vec::new(), home: known.home.to_owned() }
        }
        (None, Some(uid)) => Credentials { uid, gid: 0, groups: Vec::new(), home: "/".to_owned() },
        (None, None) => return Err(format!("the image has no user {user:?}: it is not in /etc/passwd")),
    };
    match (wanted_group, known) {
        (Some(wanted), _) => credentials.gid = find_group(wanted, group)?,
        (None, Some(known)) => credentials.groups = groups_of(known.name, group),
        (None, None) => {}
    }
    Ok(credentials)
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// By name first, then by number.
fn find_user<'a>(wanted: &str, passwd: &'a str) -> Option<User<'a>> {
    let by_name = users(passwd).find(|user| user.name == wanted);
    by_name.or_else(|| number(wanted).and_then(|uid| users(passwd).find(|user| user.uid == uid)))
}

/// `name:password:uid:gid:comment:home:shell`
fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, uid) = (fields.next()?, number(fields.nth(1)?)?);
        let gid = number(fields.next()?)?;
        let home = fields.nth(1).filter(|home| !home.is_empty()).unwrap_or("/");
        Some(User { name, uid, gid, home })
    })
}

fn find_group(wanted: &str, group: &str) -> Result<u32, String> {
    let by_name = groups(group).find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid);
    let gid = by_name.or_else(|| number(wanted));
    gid.ok_or_else(|| format!("the image has no group {wanted:?}: it is not in /etc/group"))
}

fn groups_of(user: &str, group: &str) -> Vec<u32> {
    let member = |members: &str| members.split(',').any(|member| member.trim() == user);
    groups(group).filter(|(.., members)| member(members)).map(|(_, gid, _)| gid).take(MAX_GROUPS).collect()
}

/// `name:password:gid:members`
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, gid) = (fields.next()?, number(fields.nth(1)?)?);
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number <= MAX_NUMBER)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nweb:x:101:102:Web,,,:/srv/web:/bin/false\n\
                          12:x:700:701::/odd:\nhomeless:x:9:9:::\n";
    const GROUP: &str = "root:x:0:\nwww:x:102:web\nlogs:x:4:other, web\nadm:x:5:other\n";

    fn found(user: &str) -> (u32, u32, Vec<u32>, String) {
        let Credentials { uid, gid, groups, home } = resolve(user, PASSWD, GROUP).unwrap();
        (uid, gid, groups, home)
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_by_number() {
        for (user, uid, gid, groups, home) in [
            ("", 0, 0, &[][..], "/root"),
            ("root", 0, 0, &[], "/root"),
            ("web", 101, 102, &[102, 4], "/srv/web"),
            ("101", 101, 102, &[102, 4], "/srv/web"),
            ("web:", 101, 102, &[102, 4], "/srv/web"),
            ("web:adm", 101, 5, &[], "/srv/web"),
            ("web:77", 101, 77, &[], "/srv/web"),
            (":adm", 0, 5, &[], "/root"),
            ("4000", 4000, 0, &[], "/"),
            ("4000:4001", 4000, 4001, &[], "/"),
            ("12", 700, 701, &[], "/odd"),
            ("homeless", 9, 9, &[], "/"),
        ] {
            assert_eq!(found(user), (uid, gid, groups.to_vec(), home.to_owned()), "{user:?}");
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_that_names_it() {
        assert!(resolve("nobody", PASSWD, GROUP).unwrap_err().contains("\"nobody\""));
        assert!(resolve("web:none", PASSWD, GROUP).unwrap_err().contains("\"none\""));
        assert!(resolve("-1", PASSWD, GROUP).is_err());
        assert!(resolve("4294967295", PASSWD, GROUP).is_err());
        assert_eq!(resolve("7", "", "").unwrap().uid, 7);
    }

    proptest! {
        #[test]
        fn no_file_makes_the_parser_panic(user: String, passwd: String, group: String) {
            let _ = resolve(&user, &passwd, &group);
        }
    }
}
