//! Names of users and groups, from `/etc/passwd` and `/etc/group`.

use std::{collections::BTreeMap, fs};

/// Names by number. Numbers without a name stay numbers.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl Owners {
    /// Reads this machine's files; what cannot be read has no names.
    pub(crate) fn load() -> Self {
        let read = |path| fs::read(path).unwrap_or_default();
        Self::parse(&read("/etc/passwd"), &read("/etc/group"))
    }

    /// Names from the contents of the two files.
    pub(crate) fn parse(passwd: &[u8], group: &[u8]) -> Self {
        Self { users: names(passwd), groups: names(group) }
    }

    /// The user's name, or the number.
    pub(crate) fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    /// The group's name, or the number.
    pub(crate) fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_else(|| gid.to_string())
    }
}

/// `name:password:number:…` a line; of several names for a number the first counts, as for `getpwuid`.
fn names(file: &[u8]) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    for line in String::from_utf8_lossy(file).lines() {
        let mut fields = line.split(':');
        let (name, number) = (fields.next(), fields.nth(1).and_then(|number| number.parse().ok()));
        if let (Some(name), Some(number)) = (name, number)
            && !name.is_empty()
            && !name.contains(char::is_control)
        {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::Owners;

    #[test]
    fn the_first_name_of_a_number_counts_and_a_number_without_one_is_shown_as_it_is() {
        let owners = Owners::parse(
            b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n# note\nann:x:1000:1000::/:/bin/sh\n",
            b"wheel:x:0:ann\nbad line\nshort:x\n",
        );
        assert_eq!([owners.user(0), owners.user(1000), owners.user(7)], ["root", "ann", "7"]);
        assert_eq!([owners.group(0), owners.group(1000)], ["wheel", "1000"]);
    }
}
