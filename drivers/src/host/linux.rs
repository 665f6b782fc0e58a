//! The real machine.
//!
//! Invariants: a file is replaced by rename only, after owner, mode and content are on disk; the directory is synced
//! after each change of a name. Not here: what the calls are good for (sls, catalog).

mod process;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::statvfs::statvfs;
use nix::unistd::{Gid, Group, Uid, User as PasswdUser};

use crate::error::DriverError;
use crate::fence::FenceGuard;
use crate::host::{Attributes, Command, FileKind, Host, Metadata, Output, User};
use crate::limits::FILE_BYTES_MAX;

/// The machine that this process runs on, as root.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinuxHost;

impl Host for LinuxHost {
    fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, DriverError> {
        let Some(file) = present(File::open(path), path, "open")? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        file.take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut content)
            .map_err(|cause| failed("read", path, cause))?;
        if content.len() as u64 > FILE_BYTES_MAX {
            return Err(DriverError::permanent(
                "file-too-large",
                format!("{} is larger than {FILE_BYTES_MAX} bytes", path.display()),
                "drivers read configuration files only; see what wrote so much there",
            ));
        }
        Ok(Some(content))
    }

    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, DriverError> {
        let Some(found) = present(fs::symlink_metadata(path), path, "stat")? else {
            return Ok(None);
        };
        let kind = match found.file_type() {
            kind if kind.is_file() => FileKind::File,
            kind if kind.is_dir() => FileKind::Directory,
            kind if kind.is_symlink() => FileKind::Symlink,
            _ => FileKind::Other,
        };
        let attributes = Attributes {
            owner: user_name(Uid::from_raw(found.uid())),
            group: group_name(Gid::from_raw(found.gid())),
            mode: found.mode() & 0o7777,
        };
        Ok(Some(Metadata {
            kind,
            attributes,
            size_bytes: found.len(),
        }))
    }

    fn list_dir(&self, path: &Path) -> Result<Option<Vec<String>>, DriverError> {
        let Some(entries) = present(fs::read_dir(path), path, "list")? else {
            return Ok(None);
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|cause| failed("list", path, cause))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(Some(names))
    }

    fn user(&self, name: &str) -> Result<Option<User>, DriverError> {
        let found = PasswdUser::from_name(name).map_err(|cause| {
            DriverError::retryable("host-io", format!("could not look up user {name}: {cause}"))
        })?;
        Ok(found.map(|user| User {
            name: user.name,
            group: group_name(user.gid),
            home: user.dir.to_string_lossy().into_owned(),
            shell: user.shell.to_string_lossy().into_owned(),
        }))
    }

    fn group_exists(&self, name: &str) -> Result<bool, DriverError> {
        Group::from_name(name)
            .map(|group| group.is_some())
            .map_err(|cause| {
                DriverError::retryable(
                    "host-io",
                    format!("could not look up group {name}: {cause}"),
                )
            })
    }

    fn port_is_free(&self, port: u16) -> Result<bool, DriverError> {
        match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
            Ok(_) => Ok(true),
            Err(cause) if cause.kind() == ErrorKind::AddrInUse => Ok(false),
            Err(cause) => Err(DriverError::retryable(
                "host-io",
                format!("could not try TCP port {port}: {cause}"),
            )),
        }
    }

    fn disk_free_bytes(&self, path: &Path) -> Result<u64, DriverError> {
        let existing = path
            .ancestors()
            .find(|parent| parent.exists())
            .unwrap_or(Path::new("/"));
        let found = statvfs(existing).map_err(|cause| failed("statvfs", existing, cause.into()))?;
        Ok(found
            .blocks_available()
            .saturating_mul(found.fragment_size()))
    }

    fn write_file(
        &self,
        path: &Path,
        content: &[u8],
        attributes: &Attributes,
    ) -> Result<(), DriverError> {
        let staged = staged_name(path)?;
        let write = || -> io::Result<()> {
            remove_if_present(&staged)?;
            let mut options = OpenOptions::new();
            // 0600 until the owner is right: the content may be a secret.
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&staged)?;
            file.write_all(content)?;
            own(&staged, attributes)?;
            file.sync_all()?;
            fs::rename(&staged, path)?;
            sync_parent(path)
        };
        write().map_err(|cause| {
            fs::remove_file(&staged).ok();
            failed("write", path, cause)
        })
    }

    fn make_dir(&self, path: &Path, attributes: &Attributes) -> Result<(), DriverError> {
        let make = || -> io::Result<()> {
            match fs::create_dir(path) {
                Err(cause) if cause.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
                other => other?,
            }
            own(path, attributes)?;
            sync_parent(path)
        };
        make().map_err(|cause| failed("make directory", path, cause))
    }

    fn set_attributes(&self, path: &Path, attributes: &Attributes) -> Result<(), DriverError> {
        own(path, attributes).map_err(|cause| failed("change owner or mode of", path, cause))
    }

    fn remove_file(&self, path: &Path) -> Result<(), DriverError> {
        let remove = || -> io::Result<()> {
            if remove_if_present(path)? {
                sync_parent(path)
            } else {
                Ok(())
            }
        };
        remove().map_err(|cause| failed("remove", path, cause))
    }

    fn remove_tree(&self, path: &Path) -> Result<(), DriverError> {
        match fs::remove_dir_all(path) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(failed("remove directory", path, cause)),
            Ok(()) => sync_parent(path).map_err(|cause| failed("sync the parent of", path, cause)),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DriverError> {
        let rename = || -> io::Result<()> {
            renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE)?;
            sync_parent(from)?;
            sync_parent(to)
        };
        rename().map_err(|cause| failed(&format!("rename to {}", to.display()), from, cause))
    }

    fn symlink(&self, target: &Path, path: &Path) -> Result<(), DriverError> {
        let staged = staged_name(path)?;
        let link = || -> io::Result<()> {
            remove_if_present(&staged)?;
            std::os::unix::fs::symlink(target, &staged)?;
            fs::rename(&staged, path)?;
            sync_parent(path)
        };
        link().map_err(|cause| failed("link", path, cause))
    }

    fn run_guarded(
        &self,
        command: &Command,
        guard: &dyn FenceGuard,
    ) -> Result<Output, DriverError> {
        process::run(command, guard)
    }

    fn pause(&self, pause: Duration) {
        thread::sleep(pause);
    }
}

/// `None` instead of the error "does not exist".
fn present<T>(result: io::Result<T>, path: &Path, what: &str) -> Result<Option<T>, DriverError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(cause) if matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(cause) => Err(failed(what, path, cause)),
    }
}

fn failed(what: &str, path: &Path, cause: io::Error) -> DriverError {
    let code = if cause.kind() == ErrorKind::StorageFull {
        "disk-full"
    } else {
        "host-io"
    };
    DriverError::retryable(
        code,
        format!("could not {what} {}: {cause}", path.display()),
    )
}

/// One fixed name beside the target: a crash leaves at most one such file, and the next write replaces it.
fn staged_name(path: &Path) -> Result<PathBuf, DriverError> {
    let name = path.file_name().ok_or_else(|| {
        DriverError::permanent(
            "bad-path",
            format!("{} names no file", path.display()),
            "give a full file path",
        )
    })?;
    Ok(path.with_file_name(format!(".{}.contextos-new", name.to_string_lossy())))
}

fn remove_if_present(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(cause),
    }
}

/// Owner first: chown clears the set-user-id bits that the mode may ask for.
fn own(path: &Path, attributes: &Attributes) -> io::Result<()> {
    let owner = resolve(&attributes.owner, "user", |name| {
        Ok(PasswdUser::from_name(name)?.map(|user| user.uid.as_raw()))
    })?;
    let group = resolve(&attributes.group, "group", |name| {
        Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
    })?;
    std::os::unix::fs::chown(path, Some(owner), Some(group))?;
    fs::set_permissions(path, fs::Permissions::from_mode(attributes.mode))
}

fn resolve(
    name: &str,
    kind: &str,
    look_up: impl Fn(&str) -> nix::Result<Option<u32>>,
) -> io::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    look_up(name)?.ok_or_else(|| io::Error::other(format!("{kind} {name} does not exist")))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn user_name(uid: Uid) -> String {
    PasswdUser::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name)
}

fn group_name(gid: Gid) -> String {
    Group::from_gid(gid)
        .ok()
        .flatten()
        .map_or_else(|| gid.to_string(), |group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_file_replaces_content_and_mode_and_leaves_no_staged_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.conf");
        let owner = LinuxHost.metadata(dir.path()).unwrap().unwrap().attributes;
        for (content, mode) in [("one", 0o600), ("two", 0o644)] {
            let attributes = Attributes {
                mode,
                ..owner.clone()
            };
            LinuxHost
                .write_file(&path, content.as_bytes(), &attributes)
                .unwrap();
            assert_eq!(
                LinuxHost.read_file(&path).unwrap().unwrap(),
                content.as_bytes()
            );
            assert_eq!(
                LinuxHost.metadata(&path).unwrap().unwrap().attributes,
                attributes
            );
        }
        assert_eq!(LinuxHost.list_dir(dir.path()).unwrap().unwrap(), ["a.conf"]);
    }

    #[test]
    fn rename_refuses_a_taken_name() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        assert!(LinuxHost.rename(&from, &to).is_err());
        fs::remove_dir(&to).unwrap();
        LinuxHost.rename(&from, &to).unwrap();
        assert_eq!(LinuxHost.list_dir(dir.path()).unwrap().unwrap(), ["to"]);
    }

    #[test]
    fn what_is_absent_is_none_and_removing_it_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent");
        assert_eq!(LinuxHost.read_file(&path).unwrap(), None);
        assert_eq!(LinuxHost.metadata(&path).unwrap(), None);
        assert_eq!(LinuxHost.list_dir(&path).unwrap(), None);
        LinuxHost.remove_file(&path).unwrap();
        LinuxHost.remove_tree(&path).unwrap();
    }

    #[test]
    fn port_is_free_sees_a_listener() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!LinuxHost.port_is_free(port).unwrap());
        drop(listener);
        assert!(LinuxHost.port_is_free(port).unwrap());
    }
}
