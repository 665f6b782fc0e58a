//! Names: deployments, generations, and which file names are wishes.
//!
//! Invariants: a deployment's id is the wish's path without its ending; no part of it is a word that the record uses.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::document::Format;
use crate::limits::{DEPLOYMENT_DEPTH_MAX, DEPLOYMENT_NAME_BYTES_MAX};

/// Path parts that the record below `/run` uses for itself.
const RESERVED: [&str; 13] = [
    "observed",
    "secrets",
    "outputs",
    "requests",
    "plans",
    "current",
    "log",
    "planner",
    "role",
    "slot",
    "wish.json",
    "status.json",
    "status.txt",
];

/// A deployment's id: `mid/shop-db`, `mid/shop/db`, `ctx/web`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeploymentId(String);

/// A generation's number; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// What a file name under `/mid` or `/ctx` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A wish of this deployment.
    Wish(DeploymentId, Format),
    /// A wish by its ending, under a name that cannot be one; the text says why.
    Refused(DeploymentId, String),
    /// Something else: an editor's temporary file, a dotfile, a README.
    Other,
}

impl DeploymentId {
    /// Takes an id as people write it, with or without `/` in front and the ending of a wish file.
    ///
    /// # Errors
    /// Why it cannot be an id, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim_start_matches('/').trim_end_matches('/');
        let stem = Format::split(text).map_or(text, |(stem, _)| stem);
        let mut parts = stem.split('/');
        if !matches!(parts.next(), Some("mid" | "ctx")) || parts.clone().next().is_none() {
            return Err(format!(
                "{text:?} is no deployment; write mid/NAME or ctx/NAME"
            ));
        }
        if stem.len() > DEPLOYMENT_NAME_BYTES_MAX || parts.clone().count() > DEPLOYMENT_DEPTH_MAX {
            let most = format!("{DEPLOYMENT_NAME_BYTES_MAX} bytes, {DEPLOYMENT_DEPTH_MAX} folders");
            return Err(format!("the name is longer or deeper than {most}"));
        }
        for part in parts {
            if part.is_empty() || part.starts_with('.') || part.chars().any(char::is_control) {
                return Err(format!("{part:?} cannot be a part of a deployment's name"));
            }
            if RESERVED.contains(&part) || is_generation_name(part) {
                return Err(format!("{part:?} is reserved for the record below /run"));
            }
        }
        Ok(Self(stem.to_owned()))
    }

    /// `mid/shop-db`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Generation {
    /// Directory name: six digits.
    pub fn directory(self) -> String {
        format!("{:06}", self.0)
    }

    /// Reads a directory name back.
    pub fn from_directory(name: &str) -> Option<Self> {
        if !is_generation_name(name) {
            return None;
        }
        name.parse().ok().map(Self)
    }

    /// The one after it.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn is_generation_name(name: &str) -> bool {
    name.len() == 6 && name.bytes().all(|b| b.is_ascii_digit())
}

/// Sorts a path below the root of the tree, for example `mid/shop/db.json`.
pub fn classify(path: &str) -> FileKind {
    let name = path.rsplit('/').next().unwrap_or(path);
    let temporary = name.starts_with('.')
        || name.starts_with('#')
        || name.ends_with('~')
        || name.ends_with(".swp")
        || name.ends_with(".tmp");
    if temporary {
        return FileKind::Other;
    }
    let Some((stem, format)) = Format::split(path) else {
        return FileKind::Other;
    };
    if stem.is_empty() || stem.ends_with('/') {
        return FileKind::Other;
    }
    match DeploymentId::parse(path) {
        Ok(id) => FileKind::Wish(id, format),
        Err(reason) => FileKind::Refused(DeploymentId(stem.to_owned()), reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn editors_files_and_dotfiles_are_no_wishes() {
        for name in [
            "mid/.db.json",
            "mid/db.json~",
            "mid/.db.json.swp",
            "mid/db.json.tmp",
            "mid/db.txt",
            "mid/.json",
        ] {
            assert_eq!(classify(name), FileKind::Other, "{name}");
        }
    }

    #[test]
    fn a_wish_in_folders_has_the_path_as_its_id() {
        let FileKind::Wish(id, Format::Cbor) = classify("mid/shop/db.cbor") else {
            panic!("not a wish");
        };
        assert_eq!(id.as_str(), "mid/shop/db");
    }

    #[test]
    fn reserved_parts_are_refused_with_the_part() {
        for name in [
            "mid/plans.json",
            "mid/log/db.json",
            "mid/000004.json",
            "ctx/a/secrets/b.json",
        ] {
            assert!(matches!(classify(name), FileKind::Refused(..)), "{name}");
        }
    }

    #[test]
    fn ids_are_taken_as_people_write_them() {
        assert_eq!(
            DeploymentId::parse("/mid/a.json").unwrap().as_str(),
            "mid/a"
        );
        assert_eq!(DeploymentId::parse("ctx/b").unwrap().as_str(), "ctx/b");
        assert!(DeploymentId::parse("mid").is_err());
        assert!(DeploymentId::parse("etc/passwd").is_err());
        assert!(DeploymentId::parse("mid/../x").is_err());
    }
}
