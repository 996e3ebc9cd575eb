//! The build context: the files that the Docker engine gets to see, as a tar stream made while it is sent.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

use crate::{BuildError, ignore::Ignore};

/// A directory that can be built: its Dockerfile was found and its ignore file read.
#[derive(Debug, Clone)]
pub struct Source {
    directory: PathBuf,
    dockerfile: PathBuf,
    ignore: Ignore,
    /// Files that are sent even if they are ignored, because the engine reads them itself.
    needed: Vec<PathBuf>,
    text: String,
}

/// The name that a Dockerfile from outside the directory gets in the context.
const FOREIGN_DOCKERFILE: &str = ".dockerfile.from-outside";
/// A longer Dockerfile or ignore file is none.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// How much of the stream may wait for the engine: chunks, and bytes in each.
const CHUNKS: usize = 16;
const CHUNK_BYTES: usize = 64 << 10;

impl Source {
    /// Looks at a directory. `dockerfile` and `ignorefile` are relative to it; `Dockerfile` and `.dockerignore` unless
    /// given. A file named like the Dockerfile with `.dockerignore` behind it goes before `.dockerignore`.
    ///
    /// # Errors
    /// If there is no Dockerfile, or one of the files cannot be read.
    pub fn open(directory: &Path, dockerfile: Option<&Path>, ignorefile: Option<&Path>) -> Result<Self, BuildError> {
        let dockerfile = directory.join(dockerfile.unwrap_or(Path::new("Dockerfile")));
        if !dockerfile.is_file() {
            return Err(BuildError::NoDockerfile(dockerfile));
        }
        let text = read_text(&dockerfile)?;
        let ignorefile = ignorefile_of(directory, &dockerfile, ignorefile);
        let ignore = match &ignorefile {
            Some(path) => Ignore::parse(&read_text(path)?, path)?,
            None => Ignore::default(),
        };
        let needed = std::iter::once(dockerfile.clone()).chain(ignorefile).collect();
        Ok(Self { directory: directory.to_owned(), dockerfile, ignore, needed, text })
    }

    /// The Dockerfile's text.
    pub fn dockerfile(&self) -> &str {
        &self.text
    }

    /// The Dockerfile's name in the context.
    pub fn dockerfile_name(&self) -> String {
        match inside(&self.directory, &self.dockerfile) {
            Some(name) => name,
            None => FOREIGN_DOCKERFILE.to_owned(),
        }
    }

    /// What the engine gets to see: names in the context and where they are, in order.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub fn files(&self) -> Result<BTreeMap<String, PathBuf>, BuildError> {
        let mut files = BTreeMap::new();
        self.walk(&self.directory, "", &mut files)?;
        for path in &self.needed {
            if let Some(name) = inside(&self.directory, path) {
                files.insert(name, path.clone());
            }
        }
        files.insert(self.dockerfile_name(), self.dockerfile.clone());
        Ok(files)
    }

    fn walk(&self, directory: &Path, prefix: &str, files: &mut BTreeMap<String, PathBuf>) -> Result<(), BuildError> {
        for entry in fs::read_dir(directory).map_err(unreadable(directory))? {
            let entry = entry.map_err(unreadable(directory))?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let ignored = self.ignore.ignores(&name);
            let is_directory = entry.file_type().map_err(unreadable(&entry.path()))?.is_dir();
            if !ignored {
                files.insert(name.clone(), entry.path());
            }
            if is_directory && (!ignored || self.ignore.brings_back()) {
                self.walk(&entry.path(), &format!("{name}/"), files)?;
            }
        }
        Ok(())
    }

    /// The context as a tar stream. It ends with an error if a file cannot be read; the engine then builds nothing.
    pub fn stream(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let source = self.clone();
        let (sender, receiver) = mpsc::channel(CHUNKS);
        tokio::task::spawn_blocking(move || {
            let mut pipe = Pipe { sender, buffer: Vec::with_capacity(CHUNK_BYTES) };
            if let Err(error) = source.write(&mut pipe) {
                // Nobody listens any more if this fails.
                let _ = pipe.sender.blocking_send(Err(io::Error::other(error)));
            }
        });
        futures_util::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
    }

    /// Writes the context as a tar archive.
    ///
    /// # Errors
    /// If a file cannot be read or the output fails.
    pub fn write(&self, output: &mut impl Write) -> Result<(), BuildError> {
        let mut archive = tar::Builder::new(output);
        for (name, path) in self.files()? {
            append(&mut archive, &name, &path).map_err(unreadable(&path))?;
        }
        archive.into_inner().and_then(Write::flush).map_err(unreadable(&self.directory))
    }
}

/// The ignore file that holds, if there is one.
fn ignorefile_of(directory: &Path, dockerfile: &Path, named: Option<&Path>) -> Option<PathBuf> {
    if let Some(named) = named {
        return Some(directory.join(named));
    }
    let mut beside = dockerfile.as_os_str().to_owned();
    beside.push(".dockerignore");
    [PathBuf::from(beside), directory.join(".dockerignore")].into_iter().find(|path| path.is_file())
}

/// The name of a file relative to the directory, if it is inside.
fn inside(directory: &Path, path: &Path) -> Option<String> {
    let (directory, path) = (directory.canonicalize().ok()?, path.canonicalize().ok()?);
    path.strip_prefix(directory).ok().map(|relative| relative.to_string_lossy().into_owned())
}

fn read_text(path: &Path) -> Result<String, BuildError> {
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable(path))?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable(path))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(BuildError::Unreadable { path: path.to_owned(), reason: "it is larger than 1 MiB".to_owned() });
    }
    Ok(text)
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> BuildError {
    move |error| BuildError::Unreadable { path: path.to_owned(), reason: error.to_string() }
}

/// Appends one file as root's, as Docker's own client does. Sockets, pipes and devices are left out.
fn append(archive: &mut tar::Builder<&mut impl Write>, name: &str, path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    let mut header = header(&metadata);
    if metadata.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        archive.append_link(&mut header, name, fs::read_link(path)?)
    } else if metadata.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        archive.append_data(&mut header, format!("{name}/"), io::empty())
    } else if metadata.is_file() {
        header.set_size(metadata.len());
        archive.append_data(&mut header, name, Exactly { file: File::open(path)?, left: metadata.len() })
    } else {
        Ok(())
    }
}

fn header(metadata: &Metadata) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(metadata.mode() & 0o7777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or_default());
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

/// Reads as many bytes as the header has promised: a file that grows meanwhile is cut, one that shrinks is an error.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read(&mut buffer[..want])?;
        if count == 0 && want > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read; try again"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// The blocking end of the stream: it waits while the engine is busy, so the context never piles up in memory.
struct Pipe {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.buffer.len();
        let count = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        if chunk.is_empty() {
            return Ok(());
        }
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the Docker engine stopped reading");
        self.sender.blocking_send(Ok(Bytes::from(chunk))).map_err(gone)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        directory
    }

    fn names(source: &Source) -> Vec<String> {
        source.files().unwrap().into_keys().collect()
    }

    #[test]
    fn the_engine_sees_what_is_not_ignored_and_always_the_files_it_reads_itself() {
        let directory = directory(&[
            ("Dockerfile", "FROM scratch\n"),
            (".dockerignore", "*\n!src\nsrc/*.tmp\n!target/keep\n"),
            ("src/main.c", ""),
            ("src/x.tmp", ""),
            ("target/big", ""),
            ("target/keep", ""),
            ("notes", ""),
        ]);
        let source = Source::open(directory.path(), None, None).unwrap();
        assert_eq!(names(&source), [".dockerignore", "Dockerfile", "src", "src/main.c", "target/keep"]);
        assert_eq!(source.dockerfile_name(), "Dockerfile");
    }

    #[test]
    fn an_ignore_file_of_the_dockerfile_goes_before_the_general_one() {
        let directory = directory(&[
            ("deploy/web.Dockerfile", "FROM scratch\n"),
            ("deploy/web.Dockerfile.dockerignore", "b\n"),
            (".dockerignore", "a\n"),
            ("a", ""),
            ("b", ""),
        ]);
        let source = Source::open(directory.path(), Some(Path::new("deploy/web.Dockerfile")), None).unwrap();
        let seen = names(&source);
        assert!(seen.contains(&"a".to_owned()) && !seen.contains(&"b".to_owned()), "{seen:?}");
        assert_eq!(source.dockerfile_name(), "deploy/web.Dockerfile");
        let source =
            Source::open(directory.path(), Some(Path::new("deploy/web.Dockerfile")), Some(Path::new(".dockerignore")));
        assert!(!names(&source.unwrap()).contains(&"a".to_owned()));
    }

    #[test]
    fn a_dockerfile_from_outside_travels_along() {
        let outside = directory(&[("Dockerfile", "FROM scratch\n")]);
        let directory = directory(&[("a", "")]);
        let dockerfile = outside.path().join("Dockerfile");
        let source = Source::open(directory.path(), Some(&dockerfile), None).unwrap();
        assert_eq!(names(&source), [FOREIGN_DOCKERFILE, "a"]);
        let missing = Source::open(directory.path(), None, None).unwrap_err();
        assert!(matches!(missing, BuildError::NoDockerfile(_)), "{missing}");
        assert!(missing.hint().contains("--image"));
    }

    #[tokio::test]
    async fn the_stream_is_the_directory_as_a_tar_archive_of_root() {
        let large = "x".repeat(3 * CHUNK_BYTES + 17);
        let long = format!("{}/file", "long-directory-name".repeat(8));
        let directory = directory(&[("Dockerfile", "FROM scratch\n"), ("large", &large), (&long, "long")]);
        std::os::unix::fs::symlink("large", directory.path().join("link")).unwrap();
        bind_socket(&directory.path().join("socket"));
        let source = Source::open(directory.path(), None, None).unwrap();
        let chunks: Vec<Bytes> = source.stream().map(Result::unwrap).collect().await;
        let mut archive = tar::Archive::new(io::Cursor::new(chunks.concat()));
        let mut seen = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let link = entry.link_name().unwrap().map(|link| link.to_string_lossy().into_owned());
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            seen.insert(name, link.unwrap_or(content));
        }
        assert_eq!(seen["large"], large);
        assert_eq!(seen["link"], "large");
        assert_eq!(seen[&long], "long");
        assert!(!seen.contains_key("socket"));
    }

    fn bind_socket(path: &Path) {
        std::os::unix::net::UnixListener::bind(path).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_vanishes_ends_the_stream_with_an_error() {
        let directory = directory(&[("Dockerfile", "FROM scratch\n")]);
        let source = Source::open(directory.path(), None, None).unwrap();
        fs::remove_file(directory.path().join("Dockerfile")).unwrap();
        let results: Vec<_> = source.stream().collect().await;
        assert!(results.last().unwrap().is_err());
    }
}
