//! Users of an image, by name: looked up in its own `/etc/passwd` and `/etc/group`.

use std::path::{Path, PathBuf};

use jail::Root;

/// Bytes of such a file that are read.
const FILE_BYTES_MAX: usize = 1 << 20;

/// A user as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Further groups.
    pub(crate) groups: Vec<u32>,
}

/// The file of the topmost layer that has it.
fn read(layers: &[PathBuf], path: &str) -> String {
    layers
        .iter()
        .rev()
        .find_map(|layer| Root::open_folder(layer).ok()?.read(Path::new(path), FILE_BYTES_MAX).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// Finds `user`, `user:group` or numbers; nothing means root. The error is for whoever wrote it.
pub(crate) fn find(layers: &[PathBuf], wanted: &str) -> Result<User, String> {
    if wanted.is_empty() {
        return Ok(User { uid: 0, gid: 0, groups: Vec::new() });
    }
    let (passwd, group) = (read(layers, "/etc/passwd"), read(layers, "/etc/group"));
    look_up(&passwd, &group, wanted)
}

fn look_up(passwd: &str, group: &str, wanted: &str) -> Result<User, String> {
    let (name, group_name) = match wanted.split_once(':') {
        Some((name, group_name)) => (name, Some(group_name)),
        None => (wanted, None),
    };
    let fields = |text: &str| text.split(':').map(str::to_owned).collect::<Vec<_>>();
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<u32>().ok());
    let known = passwd.lines().map(fields).find(|fields| {
        fields.first().is_some_and(|first| first == name)
            || fields.get(2).map(String::as_str) == Some(name)
    });
    let (uid, own_gid) = match (&known, name.parse::<u32>()) {
        (Some(fields), _) => {
            let ids = number(fields.get(2)).zip(number(fields.get(3)));
            ids.ok_or_else(|| format!("the image's /etc/passwd has a broken line for `{name}`"))?
        }
        (None, Ok(uid)) => (uid, 0),
        (None, Err(_)) => return Err(format!("the image has no user `{name}`")),
    };
    let groups_of = |wanted: &dyn Fn(&[String]) -> bool| {
        group.lines().map(fields).filter(|f| wanted(f)).filter_map(|f| number(f.get(2))).collect()
    };
    let Some(group_name) = group_name else {
        let name = known.as_ref().and_then(|fields| fields.first()).cloned();
        let is_member = |fields: &[String]| {
            let members = fields.get(3).map(String::as_str).unwrap_or_default();
            name.as_deref().is_some_and(|name| members.split(',').any(|member| member == name))
        };
        return Ok(User { uid, gid: own_gid, groups: groups_of(&is_member) });
    };
    let found: Vec<u32> =
        groups_of(&|fields| fields.first().is_some_and(|first| first == group_name));
    let gid = found.first().copied().or_else(|| group_name.parse().ok());
    let gid = gid.ok_or_else(|| format!("the image has no group `{group_name}`"))?;
    Ok(User { uid, gid, groups: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nextra:x:50:web,root\n";

    fn check(wanted: &str, uid: u32, gid: u32, groups: &[u32]) {
        let user = look_up(PASSWD, GROUP, wanted).unwrap();
        assert_eq!(user, User { uid, gid, groups: groups.to_vec() }, "{wanted}");
    }

    #[test]
    fn names_and_numbers() {
        check("web", 33, 34, &[50]);
        check("33", 33, 34, &[50]);
        check("web:extra", 33, 50, &[]);
        check("7:8", 7, 8, &[]);
        check("7", 7, 0, &[]);
        assert!(look_up(PASSWD, GROUP, "nobody").unwrap_err().contains("no user `nobody`"));
        assert!(look_up(PASSWD, GROUP, "web:none").unwrap_err().contains("no group `none`"));
    }
}
