//! Writing outputs so that nothing is lost.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::prelude::v1::*;

/// Writes a file as a whole: the bytes go to a temporary file in the same folder, reach the disk, and then take the
/// file's name. Whoever reads the name sees the earlier file or the new one, never a part of either; after a failure
/// the earlier file is still there and the temporary file is not.
///
/// Missing folders are made. A symbolic link is followed. What is no regular file, such as `/dev/stdout`, has no earlier
/// content to keep and is written directly.
///
/// # Errors
/// Those of the file system: a full disk, no permission, a folder of that name.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return fs::write(path, bytes);
    }
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match target.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    #[cfg_attr(not(unix), allow(unused_mut, reason = "there are no permissions to set"))]
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What any program asks for a new file; the process's umask takes its part.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    // Its error names the temporary file, which says nothing to who asked for another.
    let mut file = builder.tempfile_in(folder).map_err(|error| io::Error::from(error.kind()))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(&target)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_made_with_its_folders_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs/a/x.bin");
        write(&path, b"first").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(path.parent().unwrap()), ["x.bin"]);
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_any_file_and_links_stay() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let [plain, path, link] = ["plain", "written", "link"].map(|name| folder.path().join(name));
        fs::write(&plain, b"x").unwrap();
        write(&path, b"x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));

        std::os::unix::fs::symlink(&path, &link).unwrap();
        write(&link, b"y").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"y");

        write(Path::new("/dev/null"), b"z").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_failure_leaves_everything_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let earlier = folder.path().join("earlier");
        write(&earlier, b"whole").unwrap();
        fs::create_dir(folder.path().join("folder")).unwrap();
        write(&folder.path().join("folder"), b"x").unwrap_err();
        write(&earlier.join("below/a/file"), b"x").unwrap_err();
        assert_eq!(fs::read(&earlier).unwrap(), b"whole");
        assert_eq!(names(folder.path()), ["earlier", "folder"]);
        assert!(names(&folder.path().join("folder")).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_error_names_no_temporary_file() {
        // Nobody may make files there.
        let error = write(Path::new("/proc/picture"), b"x").unwrap_err();
        assert!(!error.to_string().contains("tmp"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_without_permission_keeps_its_files() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("earlier");
        write(&path, b"whole").unwrap();
        let allow = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        allow(0o555);
        let result = write(&path, b"new");
        // A superuser may write anywhere.
        let expected: &[u8] = if result.is_ok() { b"new" } else { b"whole" };
        assert_eq!(fs::read(&path).unwrap(), expected);
        assert_eq!(names(folder.path()), ["earlier"]);
        allow(0o755);
    }
}
