//! One conversion for all who ask, kept across restarts.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::internal::{ImageError, RootfsSource};
use futures_util::future::join_all;
use model::{Digest, ImageConfig, ImageSpec};

use super::{
    archive::{Archive, file},
    image::{Bench, see},
};
use crate::{
    layers::ImageLayers,
    rootfs::{LayerSource, Limits, RootfsStore},
};

/// Images by digest; counts how often it is asked.
#[derive(Clone, Default)]
struct Shelf {
    images: Arc<BTreeMap<Digest, ImageLayers>>,
    asked: Arc<AtomicUsize>,
}

impl LayerSource for Shelf {
    fn layers(&self, manifest: &Digest) -> Result<ImageLayers, ImageError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.images.get(manifest).cloned().ok_or_else(|| ImageError::NotFound {
            reference: manifest.to_string(),
            reason: "it is not on the shelf".to_owned(),
        })
    }
}

/// A shelf with images that hold one file each, and how to ask for them.
fn shelf(benches: &[Bench]) -> (Shelf, Vec<ImageSpec>) {
    let config = ImageConfig { user: "nobody".to_owned(), ..ImageConfig::default() };
    let images: Vec<_> = benches.iter().map(|b| ImageLayers { config: config.clone(), ..b.image() }).collect();
    let specs = images.iter().map(|i| ImageSpec { reference: "app:v1".to_owned(), digest: i.manifest.clone() });
    let specs = specs.collect();
    let by_digest = images.into_iter().map(|image| (image.manifest.clone(), image)).collect();
    (Shelf { images: Arc::new(by_digest), asked: Arc::default() }, specs)
}

fn one_file(content: &str) -> Bench {
    Bench::of([&Archive::of([file("a", content)])])
}

fn open(directory: &Path, shelf: &Shelf) -> RootfsStore {
    RootfsStore::open(directory.to_owned(), shelf.clone(), Limits::default(), 1).unwrap()
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn an_image_is_converted_once_however_many_ask_and_restarts_remember_it() {
    let benches = [one_file("1"), one_file("2")];
    let ((shelf, specs), directory) = (shelf(&benches), tempfile::tempdir().unwrap());
    let store = open(directory.path(), &shelf);
    let results = join_all((0..40).map(|n| store.rootfs(&specs[n % 2]))).await;
    assert_eq!(shelf.asked.load(Ordering::SeqCst), 2);
    for (n, result) in results.into_iter().enumerate() {
        let rootfs = result.unwrap();
        assert_eq!(rootfs.path, directory.path().join(format!("{}.ext4", specs[n % 2].digest.hex())));
        assert_eq!(rootfs.config.user, "nobody");
    }
    store.stop().await;
    let store = open(directory.path(), &shelf);
    let rootfs = store.rootfs(&specs[0]).await.unwrap();
    assert_eq!((shelf.asked.load(Ordering::SeqCst), rootfs.config.user.as_str()), (2, "nobody"));
    assert_eq!(see(&rootfs.path).len(), 2);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_the_conversion_for_others() {
    let benches = [one_file("1")];
    let ((shelf, specs), directory) = (shelf(&benches), tempfile::tempdir().unwrap());
    let store = open(directory.path(), &shelf);
    {
        let asked = store.rootfs(&specs[0]);
        let _ = futures_util::poll!(std::pin::pin!(asked));
    }
    store.rootfs(&specs[0]).await.unwrap();
    assert_eq!(shelf.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_refused_image_leaves_nothing_and_may_be_asked_for_again() {
    let benches = [Bench::of([&Archive::of([file("../bad", "")])])];
    let ((shelf, specs), directory) = (shelf(&benches), tempfile::tempdir().unwrap());
    let store = open(directory.path(), &shelf);
    for asked in 1..3 {
        let error = store.rootfs(&specs[0]).await.unwrap_err();
        assert!(error.to_string().starts_with("image app:v1 cannot be used: layer 1 of 1 (sha256:"), "{error}");
        assert_eq!(shelf.asked.load(Ordering::SeqCst), asked);
    }
    assert_eq!(names(directory.path()), BTreeSet::new());
    let unknown = ImageSpec { digest: super::image::sha256(b"unknown"), ..specs[0].clone() };
    assert!(matches!(store.rootfs(&unknown).await, Err(ImageError::NotFound { .. })));
}

#[tokio::test]
async fn an_image_whose_record_cannot_be_written_does_not_stay() {
    let benches = [one_file("1")];
    let ((shelf, specs), directory) = (shelf(&benches), tempfile::tempdir().unwrap());
    let store = open(directory.path(), &shelf);
    let record = format!("{}.json", specs[0].digest.hex());
    std::fs::create_dir_all(directory.path().join(&record).join("in the way")).unwrap();
    let error = store.rootfs(&specs[0]).await.unwrap_err();
    assert!(matches!(error, ImageError::Storage { .. }), "{error}");
    assert_eq!(names(directory.path()), BTreeSet::from([record]));
}

#[tokio::test]
async fn leftovers_are_swept_and_damaged_images_made_anew() {
    let benches = [one_file("1"), one_file("2")];
    let ((shelf, specs), directory) = (shelf(&benches), tempfile::tempdir().unwrap());
    let store = open(directory.path(), &shelf);
    for spec in &specs {
        store.rootfs(spec).await.unwrap();
    }
    let whole = names(directory.path());
    let image = |spec: &ImageSpec| directory.path().join(format!("{}.ext4", spec.digest.hex()));
    // A conversion killed half way, one killed before its record, a record alone, an image cut short, a stranger.
    for name in ["abc.tmp", &format!("{}.ext4", "0".repeat(64)), &format!("{}.json", "1".repeat(64))] {
        std::fs::write(directory.path().join(name), "{}").unwrap();
    }
    std::fs::write(directory.path().join("README"), "").unwrap();
    std::fs::File::options().write(true).open(image(&specs[1])).unwrap().set_len(4096).unwrap();
    let store = open(directory.path(), &shelf);
    let mut left = names(directory.path());
    assert!(left.remove("README"));
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|name| name.starts_with(specs[0].digest.hex())));
    store.rootfs(&specs[1]).await.unwrap();
    left = names(directory.path());
    left.remove("README");
    assert_eq!((left, shelf.asked.load(Ordering::SeqCst)), (whole, 3));
}

#[tokio::test]
async fn images_of_another_maker_are_made_anew() {
    let benches = [one_file("1")];
    let ((shelf, specs), directory) = (shelf(&benches), tempfile::tempdir().unwrap());
    open(directory.path(), &shelf).rootfs(&specs[0]).await.unwrap();
    let record = directory.path().join(format!("{}.json", specs[0].digest.hex()));
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replace("dunlin-", "older-")).unwrap();
    open(directory.path(), &shelf).rootfs(&specs[0]).await.unwrap();
    assert_eq!(shelf.asked.load(Ordering::SeqCst), 2);
    assert_eq!(std::fs::read_to_string(&record).unwrap(), text);
}

#[tokio::test]
async fn images_that_nobody_uses_are_collected_unless_they_are_young() {
    let benches = [one_file("1"), one_file("2")];
    let ((shelf, specs), directory) = (shelf(&benches), tempfile::tempdir().unwrap());
    let store = open(directory.path(), &shelf);
    for spec in &specs {
        store.rootfs(spec).await.unwrap();
    }
    let in_use = BTreeSet::from([specs[0].digest.clone()]);
    assert_eq!(store.collect(&in_use, Duration::from_secs(3600)).unwrap(), 0);
    assert_eq!(store.collect(&in_use, Duration::ZERO).unwrap(), 1);
    assert!(names(directory.path()).iter().all(|name| name.starts_with(specs[0].digest.hex())));
    store.rootfs(&specs[1]).await.unwrap();
}

#[tokio::test]
async fn a_stopped_store_refuses_and_leaves_nothing() {
    let benches = [one_file("1")];
    let ((shelf, specs), directory) = (shelf(&benches), tempfile::tempdir().unwrap());
    let store = open(directory.path(), &shelf);
    store.stop().await;
    let error = store.rootfs(&specs[0]).await.unwrap_err();
    assert!(error.to_string().contains("shutting down"), "{error}");
    assert_eq!(names(directory.path()), BTreeSet::new());
}
