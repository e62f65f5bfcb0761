//! Rules over the names of extended attributes, in the language of virtiofsd's `--xattrmap`.
//!
//! A rule is `:type:scope:key:prepend:`, with any delimiter; rules may be apart by white space. `map` is short for
//! three rules at the end.

use std::ffi::{CStr, CString};

use airlockfs_ipc::Errno;

/// Longest name (XATTR_NAME_MAX).
const NAME_MAX: usize = 255;

/// A name for the host, terminated.
pub(crate) struct HostName([u8; NAME_MAX + 1]);

impl HostName {
    /// `prefix` and `name` together. ERANGE if that is too long.
    pub(crate) fn new(prefix: &[u8], name: &[u8]) -> Result<Self, Errno> {
        let mut bytes = [0; NAME_MAX + 1];
        let length = prefix.len() + name.len();
        let room = bytes.get_mut(..length).filter(|room| room.len() <= NAME_MAX);
        let (first, second) = room
            .ok_or(Errno::ERANGE)?
            .split_at_mut_checked(prefix.len())
            .ok_or(Errno::ERANGE)?;
        first.copy_from_slice(prefix);
        second.copy_from_slice(name);
        Ok(Self(bytes))
    }

    /// Without the terminating NUL.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.as_c_str().to_bytes()
    }

    /// The string.
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The guest's name gets `prepend`, the host's loses it.
    Prefix,
    /// The name passes as it is.
    Pass,
    /// The guest's name is refused with this errno, the host's hidden.
    Refuse(Errno),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    kind: Kind,
    guest: bool,
    host: bool,
    /// How a guest's name begins that the rule is for.
    key: Vec<u8>,
    /// How a host's name begins that the rule is for.
    prepend: Vec<u8>,
}

/// Rules in order; the first that matches counts.
#[derive(Debug)]
pub(crate) struct XattrMap {
    rules: Vec<Rule>,
    capability: Option<CString>,
}

impl XattrMap {
    /// Reads rules. The error is for a person.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut rules = Vec::new();
        let mut rest = text.trim_start();
        while let Some(delimiter) = rest.chars().next() {
            rest = rest.get(delimiter.len_utf8()..).unwrap_or_default();
            let mut field = || {
                let (field, after) = rest
                    .split_once(delimiter)
                    .ok_or_else(|| format!("incomplete rule near '{rest}'"))?;
                rest = after;
                Ok::<_, String>(field)
            };
            match field()? {
                "map" => {
                    rules.extend(expand(field()?, field()?));
                    if !rest.trim().is_empty() {
                        return Err("a 'map' rule must be the last rule".into());
                    }
                }
                kind => rules.push(rule(kind, field()?, field()?, field()?)?),
            }
            rest = rest.trim_start();
        }
        if !rules.iter().any(|rule| rule.guest && rule.key.is_empty()) {
            return Err("there must be a last rule for all names of the client, such as ':ok:all:::'".into());
        }
        if !rules.iter().any(|rule| rule.host && rule.prepend.is_empty()) {
            return Err("there must be a last rule for all names of the server, such as ':ok:all:::'".into());
        }
        let mut map = Self {
            rules,
            capability: None,
        };
        map.capability = match map.to_host(CAPABILITY) {
            Ok(name) if name.as_c_str().to_bytes() != CAPABILITY => Some(name.as_c_str().to_owned()),
            _ => None,
        };
        Ok(map)
    }

    /// The host's name for a guest's. EPERM or ENOTSUP if it is refused, ERANGE if it gets too long.
    pub(crate) fn to_host(&self, name: &[u8]) -> Result<HostName, Errno> {
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.guest && name.starts_with(&rule.key))
            .ok_or(Errno::EPERM)?;
        match rule.kind {
            Kind::Prefix => HostName::new(&rule.prepend, name),
            Kind::Pass => HostName::new(b"", name),
            Kind::Refuse(error) => Err(error),
        }
    }

    /// The guest's name for a host's, or `None` if it is hidden.
    pub(crate) fn to_guest<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.host && name.starts_with(&rule.prepend))?;
        match rule.kind {
            Kind::Prefix => name.get(rule.prepend.len()..).filter(|name| !name.is_empty()),
            Kind::Pass => Some(name),
            Kind::Refuse(_) => None,
        }
    }

    /// The host's name for `security.capability`, where it is another: the kernel does not remove that one by itself.
    pub(crate) fn capability(&self) -> Option<&CStr> {
        self.capability.as_deref()
    }
}

const CAPABILITY: &[u8] = b"security.capability";

fn rule(kind: &str, scope: &str, key: &str, prepend: &str) -> Result<Rule, String> {
    let kind = match kind {
        "prefix" => Kind::Prefix,
        "ok" => Kind::Pass,
        "bad" => Kind::Refuse(Errno::EPERM),
        "unsupported" => Kind::Refuse(Errno::ENOTSUP),
        _ => {
            return Err(format!(
                "'{kind}' is no type of rule: prefix, ok, bad, unsupported or map"
            ));
        }
    };
    let (guest, host) = match scope {
        "client" => (true, false),
        "server" => (false, true),
        "all" => (true, true),
        _ => return Err(format!("'{scope}' is no scope: client, server or all")),
    };
    if key.contains('\0') || prepend.contains('\0') {
        return Err("a name with a NUL".into());
    }
    Ok(Rule {
        kind,
        guest,
        host,
        key: key.into(),
        prepend: prepend.into(),
    })
}

/// What a `map` rule is short for: names that begin with `key` are kept under `prepend`, and neither side gets at the
/// other's by their own; other names pass, if there are any.
fn expand(key: &str, prepend: &str) -> Vec<Rule> {
    let both = |kind, key: &str, prepend: &str| Rule {
        kind,
        guest: true,
        host: true,
        key: key.into(),
        prepend: prepend.into(),
    };
    let mut rules = vec![both(Kind::Prefix, key, prepend)];
    if key.is_empty() {
        rules.push(both(Kind::Refuse(Errno::EPERM), "", ""));
    } else {
        rules.push(both(Kind::Refuse(Errno::EPERM), prepend, key));
        rules.push(both(Kind::Pass, "", ""));
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_host(map: &XattrMap, name: &str) -> Result<String, Errno> {
        let name = map.to_host(name.as_bytes())?;
        Ok(name.as_c_str().to_str().unwrap().to_owned())
    }

    fn to_guest(map: &XattrMap, name: &'static str) -> Option<&'static str> {
        map.to_guest(name.as_bytes())
            .map(|name| std::str::from_utf8(name).unwrap())
    }

    #[test]
    fn everything_under_a_prefix() {
        for text in [":map::user.virtiofs.:", ":prefix:all::user.virtiofs.::bad:all:::"] {
            let map = XattrMap::parse(text).unwrap();
            assert_eq!(to_host(&map, "trusted.a"), Ok("user.virtiofs.trusted.a".into()));
            assert_eq!(to_guest(&map, "user.virtiofs.trusted.a"), Some("trusted.a"));
            assert_eq!(to_guest(&map, "user.a"), None);
            assert_eq!(map.capability(), Some(c"user.virtiofs.security.capability"));
        }
    }

    #[test]
    fn one_namespace_under_a_prefix() {
        let long = "/prefix/all/trusted./user.virtiofs./
            /bad/server//trusted./
            /bad/client/user.virtiofs.//
            /ok/all///";
        for text in [
            "/map/trusted./user.virtiofs./",
            long,
            "  :map:trusted.:user.virtiofs.:  ",
        ] {
            let map = XattrMap::parse(text).unwrap();
            assert_eq!(to_host(&map, "trusted.a"), Ok("user.virtiofs.trusted.a".into()));
            assert_eq!(to_host(&map, "user.virtiofs.trusted.a"), Err(Errno::EPERM));
            assert_eq!(to_host(&map, "user.b"), Ok("user.b".into()));
            assert_eq!(to_guest(&map, "user.virtiofs.trusted.a"), Some("trusted.a"));
            assert_eq!(to_guest(&map, "trusted.a"), None);
            assert_eq!(to_guest(&map, "user.b"), Some("user.b"));
            assert_eq!(map.capability(), None);
        }
    }

    #[test]
    fn unsupported_is_not_forbidden() {
        let map = XattrMap::parse(":unsupported:all:system.:system.:,ok,all,,,").unwrap();
        assert_eq!(to_host(&map, "system.nfs4_acl"), Err(Errno::ENOTSUP));
        assert_eq!(to_guest(&map, "system.nfs4_acl"), None);
        assert_eq!(to_host(&map, "user.a"), Ok("user.a".into()));
    }

    #[test]
    fn long_names_are_refused() {
        let map = XattrMap::parse(":map::user.virtiofs.:").unwrap();
        let fits = "x".repeat(255 - "user.virtiofs.".len());
        assert!(to_host(&map, &fits).is_ok());
        assert_eq!(to_host(&map, &(fits + "x")), Err(Errno::ERANGE));
    }

    #[test]
    fn wrong_rules_are_refused() {
        for wrong in [
            "",
            "   ",
            ":",
            ":ok:all::",
            ":ok:nobody:::",
            ":maybe:all:::",
            ":prefix:all:trusted.:user.virtiofs.:",
            ":ok:client:::",
            ":map::user.:  :ok:all:::",
            ":ok:all:::x",
        ] {
            assert!(XattrMap::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
