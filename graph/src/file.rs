//! Writing outputs so that nothing is lost.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::prelude::v1::*;

/// Writes a file as a whole: the bytes go to a temporary file in the same folder, reach the disk, and then take the
/// file's name. Whoever reads the name sees the earlier file or the new one, never a part of either; after a failure
/// the earlier file is still there and the temporary file is not.
///
/// Missing folders are made. Symbolic links are followed, and an earlier file's permissions kept. What is no regular file, such
/// as `/dev/stdout`, has no earlier content to keep and is written directly.
///
/// # Errors
/// Those of the file system: a full disk, no permission, a folder of that name.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let earlier = fs::metadata(path).ok();
    if earlier.as_ref().is_some_and(|earlier| !earlier.is_file()) {
        return fs::write(path, bytes);
    }
    let target = target(path);
    let folder = folder(&target);
    fs::create_dir_all(folder)?;
    #[cfg_attr(not(unix), allow(unused_mut, reason = "there are no permissions to set"))]
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What any program asks for a new file; the process's umask takes its part.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    // Its errors name the temporary file, which says nothing to who asked for another.
    let mut file = builder.tempfile_in(folder).map_err(|error| io::Error::from(error.kind()))?;
    if let Some(earlier) = earlier {
        file.as_file().set_permissions(earlier.permissions())?;
    }
    file.as_file_mut().write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(&target)?;
    Ok(())
}

/// The first of some paths that leads to the same file as one before it. Of what is no regular file many may be written.
pub fn repeated<'p>(paths: &[&'p Path]) -> Option<&'p Path> {
    let place = |path: &Path| {
        let target = target(path);
        let folder = folder(&target);
        fs::canonicalize(folder)
            .unwrap_or_else(|_| folder.to_owned())
            .join(target.file_name().unwrap_or_default())
    };
    let places: Vec<PathBuf> = paths.iter().map(|path| place(path)).collect();
    let repeats = |&index: &usize| {
        places[..index].contains(&places[index])
            && !fs::metadata(paths[index]).is_ok_and(|found| !found.is_file())
    };
    (1..paths.len()).find(repeats).map(|index| paths[index])
}

/// The path behind symbolic links, whether or not there is a file.
fn target(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many as Linux follows.
    for _ in 0..40 {
        let Ok(link) = fs::read_link(&path) else { break };
        path = folder(&path).join(link);
    }
    path
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
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
        std::os::unix::fs::symlink("later", folder.path().join("ahead")).unwrap();
        write(&folder.path().join("ahead"), b"z").unwrap();
        assert_eq!(fs::read(folder.path().join("later")).unwrap(), b"z");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        write(&path, b"secret").unwrap();
        assert_eq!(mode(&path) & 0o777, 0o600);

        write(Path::new("/dev/null"), b"z").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_leads_to_the_same_file_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b, link] = ["a", "b", "link"].map(|name| folder.path().join(name));
        std::os::unix::fs::symlink("b", &link).unwrap();
        let around = folder.path().join("..").join(folder.path().file_name().unwrap()).join("a");
        assert_eq!(repeated(&[&a, &b]), None);
        assert_eq!(repeated(&[&a, &b, &around]), Some(&*around));
        assert_eq!(repeated(&[&a, &b, &link]), Some(&*link));
        assert_eq!(repeated(&[Path::new("/dev/null"); 2]), None);
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
