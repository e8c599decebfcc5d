//! Where a configuration is read from: one file and the variables of the start, so that it can be
//! read again. Files are told apart by a digest of what is in them: times and inodes do not tell
//! whether an editor replaced the file, or a mounted folder's symbolic link was pointed elsewhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::environment::named_files;
use super::load::{Loaded, locate, read};
use super::sources::LoadError;

/// Most of a file that is looked at: far beyond any configuration, key or certificate.
const LONGEST_LOOK: u64 = 16 << 20;

/// A configuration file and the environment of a start.
pub struct Input {
    path: PathBuf,
    env: Vec<(String, String)>,
}

impl Input {
    /// The file at `path`, else at `PORTCULLIS_CONFIG`, else the first of
    /// [`DEFAULT_PATHS`](super::load::DEFAULT_PATHS) that exists; and the variables in `env`.
    ///
    /// # Errors
    /// There is no such file.
    pub fn locate(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, LoadError> {
        let env: Vec<_> = env.into_iter().collect();
        Ok(Self { path: locate(path, &env)?, env })
    }

    /// Reads the configuration as it is now.
    ///
    /// # Errors
    /// Everything that is wrong with it, or that the file cannot be read.
    pub fn load(&self) -> Result<Loaded, LoadError> {
        read(&self.path, self.env.iter().cloned())
    }

    /// The files that [`load`](Self::load) reads: the configuration, and those that variables name.
    pub fn files(&self) -> Vec<PathBuf> {
        let named = named_files(&self.env).map(PathBuf::from);
        std::iter::once(self.path.clone()).chain(named).collect()
    }
}

/// What was in some files when they were looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents(BTreeMap<PathBuf, Content>);

/// What was in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// SHA-256 of it.
    Digest([u8; 32]),
    /// Nothing that can be looked at: there is no file, it may not be read, or it is a pipe or
    /// device, of which a look would take something away or never end.
    Unreadable,
}

impl Contents {
    /// Looks at `files`.
    pub fn of(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut contents = Self::default();
        contents.look_at(files);
        contents
    }

    /// Looks at more files; those that were looked at before are left as they were.
    pub fn look_at(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        for file in files {
            self.0.entry(file).or_insert_with_key(|file| Content::of(file));
        }
    }

    /// Looks at the same files again.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::of(self.0.keys().cloned())
    }

    /// Adds to `digest` what is in `file`; nothing if that was not looked at.
    pub fn add_to(&self, digest: &mut Sha256, file: &Path) {
        if let Some(Content::Digest(content)) = self.0.get(file) {
            digest.update(content);
        }
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.keys()
    }
}

impl Content {
    fn of(path: &Path) -> Self {
        let look = || -> std::io::Result<Option<[u8; 32]>> {
            // Before it is opened: opening a pipe waits for somebody to write.
            if !path.metadata()?.is_file() {
                return Ok(None);
            }
            let mut file = File::open(path)?.take(LONGEST_LOOK);
            let (mut digest, mut piece) = (Sha256::new(), vec![0; 16 << 10]);
            loop {
                match file.read(&mut piece)? {
                    0 => return Ok(Some(digest.finalize().into())),
                    length => digest.update(&piece[..length]),
                }
            }
        };
        look().ok().flatten().map_or(Self::Unreadable, Self::Digest)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_way_to_change_a_file_shows_and_none_that_changes_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| fs::write(at(name), text).expect("the folder is ours");
        // As Kubernetes mounts a ConfigMap: file -> ..data/file, ..data -> a folder of the version.
        for version in ["one", "two"] {
            fs::create_dir(at(version)).expect("the folder is ours");
            write(&format!("{version}/p.toml"), version);
        }
        let link = |to: &str, name: &str| {
            std::os::unix::fs::symlink(to, at(name)).expect("the folder is ours");
        };
        link("one", "..data");
        link("..data/p.toml", "mounted.toml");
        write("edited.toml", "one");
        let first = Contents::of([at("mounted.toml"), at("edited.toml"), at("missing.pem")]);
        assert_eq!(first.again(), first);

        // Written again, and replaced by a file that is the same.
        write("edited.toml", "one");
        write("new", "one");
        fs::rename(at("new"), at("edited.toml")).expect("the folder is ours");
        assert_eq!(first.again(), first);

        link("two", "..next");
        fs::rename(at("..next"), at("..data")).expect("the folder is ours");
        let swapped = first.again();
        assert_ne!(swapped, first);
        write("new", "two");
        fs::rename(at("new"), at("edited.toml")).expect("the folder is ours");
        let replaced = first.again();
        assert_ne!(replaced, swapped);
        write("missing.pem", "");
        let appeared = first.again();
        assert_ne!(appeared, replaced);
        fs::remove_file(at("missing.pem")).expect("the folder is ours");
        assert_eq!(first.again(), replaced);
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        for device in ["/dev/zero", "/proc/self/fd", "/nowhere/at/all"] {
            let contents = Contents::of([device.into()]);
            assert_eq!(contents.0[Path::new(device)], Content::Unreadable, "{device}");
        }
    }

    #[test]
    fn the_files_are_the_configuration_and_those_that_variables_name() {
        let env = [
            ("PORTCULLIS_TOKENS__SECRET_FILE", "/run/secret"),
            ("portcullis_storage__url_file", "/run/url"),
            ("PORTCULLIS_SIGNUP__ENABLED", "/run/no"),
            ("PORTCULLIS_FILE", "/run/ignored"),
            ("PORTCULLIS_A__FILE", "/run/no"),
            ("OTHER__X_FILE", "/run/other"),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let input = Input::locate(Some(Path::new("p.toml")), env).expect("a file is named");
        let expected = ["p.toml", "/run/secret", "/run/url"].map(PathBuf::from);
        assert_eq!(input.files(), expected);
    }
}
