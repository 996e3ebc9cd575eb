//! Looks for kernels where packages put them.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
};

use super::{KernelError, KernelSource};

/// A kernel and its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The kernel's image.
    pub(super) image: PathBuf,
    /// The directory of its modules.
    pub(super) modules: PathBuf,
}

impl Found {
    /// The release that the directory of its modules is named like.
    pub(super) fn release(&self) -> Option<String> {
        Some(self.modules.file_name()?.to_str()?.to_owned())
    }
}

/// Where [`super::install`] unpacks packages.
pub(super) fn package_directory(data: &Path) -> PathBuf {
    data.join("kernel").join("pkg")
}

/// The kernels to try, best first.
pub(super) fn candidates(source: &KernelSource, data: &Path) -> Result<Vec<Found>, KernelError> {
    let (found, places) = match source {
        KernelSource::Path { image, modules } => {
            return Ok(vec![Found { image: image.clone(), modules: modules.clone() }]);
        }
        KernelSource::Directory(directory) => (kernels_below(directory), directory.display().to_string()),
        KernelSource::Auto => {
            let packages = package_directory(data);
            let mut found = kernels_below(&packages);
            found.extend(kernels_below(Path::new("/")));
            (found, format!("{} and /boot", packages.display()))
        }
    };
    if found.is_empty() { Err(KernelError::Missing(format!("there is none in {places}"))) } else { Ok(found) }
}

/// The kernels with modules below a directory, newest first; those made for virtual machines before others.
fn kernels_below(root: &Path) -> Vec<Found> {
    let files = fs::read_dir(root.join("boot")).into_iter().flatten().flatten();
    let mut releases: Vec<String> = files
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned()))
        .filter(|release| modules_of(root, release).is_some())
        .collect();
    releases.sort_by(|a, b| is_cloud(a).cmp(&is_cloud(b)).then_with(|| compare_versions(a, b)).reverse());
    let found = |release: String| {
        Some(Found { image: root.join(format!("boot/vmlinuz-{release}")), modules: modules_of(root, &release)? })
    };
    releases.into_iter().filter_map(found).collect()
}

fn modules_of(root: &Path, release: &str) -> Option<PathBuf> {
    let places = ["lib/modules", "usr/lib/modules"].map(|place| root.join(place).join(release));
    places.into_iter().find(|place| place.join("kernel").is_dir())
}

fn is_cloud(release: &str) -> bool {
    ["cloud", "virtual", "kvm"].iter().any(|flavor| release.contains(flavor))
}

/// Compares numbers as numbers and what stands between them as text.
fn compare_versions(a: &str, b: &str) -> Ordering {
    fn parts(version: &str) -> impl Iterator<Item = (u64, &str)> {
        version.split(['.', '-']).map(|part| (part.parse().unwrap_or(0), part))
    }
    parts(a).cmp(parts(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_cloud_kernel_with_modules_comes_first() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("boot")).unwrap();
        for (release, modules) in [
            ("6.1.0-9-cloud-amd64", "lib/modules"),
            ("6.1.0-56-cloud-amd64", "usr/lib/modules"),
            ("6.12.0-1-amd64", "lib/modules"),
        ] {
            fs::write(root.path().join(format!("boot/vmlinuz-{release}")), "").unwrap();
            fs::create_dir_all(root.path().join(modules).join(release).join("kernel")).unwrap();
        }
        fs::write(root.path().join("boot/vmlinuz-9.9.9-cloud"), "").unwrap();
        let found = candidates(&KernelSource::Directory(root.path().to_owned()), Path::new("/nowhere")).unwrap();
        let releases: Vec<_> = found.iter().map(|found| found.release().unwrap()).collect();
        assert_eq!(releases, ["6.1.0-56-cloud-amd64", "6.1.0-9-cloud-amd64", "6.12.0-1-amd64"]);
    }

    #[test]
    fn an_empty_place_says_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let error = candidates(&KernelSource::Directory(root.path().to_owned()), root.path()).unwrap_err();
        assert!(error.to_string().contains("run `dunlin setup`"), "{error}");
    }
}
