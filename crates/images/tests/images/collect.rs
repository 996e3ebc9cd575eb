//! Garbage collection: what is reachable stays, whatever the order of things; the rest goes.

use std::{collections::HashSet, time::Duration};

use api::internal::{ImageResolver, PullCredentials, RootfsSource};
use images::{CollectError, Collected};
use model::{Digest, ImageSpec};
use proptest::prelude::*;
use serde_json::json;

use crate::support::*;

async fn without_grace() -> Platform {
    Platform::with(|options| options.grace = Duration::ZERO).await
}

async fn collect(platform: &Platform, in_use: &[Digest]) -> Collected {
    platform.images.collect(&InUse(Ok(in_use.to_vec()))).await.unwrap()
}

#[tokio::test]
async fn what_is_tagged_or_used_stays_and_the_rest_goes() {
    let platform = without_grace().await;
    let client = platform.client();
    let [tagged, used, old] = ["tagged", "used", "old"].map(TestImage::new);
    client.push_image("app", "v1", &tagged).await;
    for image in [&used, &old] {
        client.push_image("app", image.digest().as_str(), image).await;
    }
    let collected = collect(&platform, &[used.digest()]).await;
    assert_eq!(collected.blobs, 3);
    for part in tagged.parts().iter().chain(&used.parts()) {
        assert!(platform.has_blob(part));
    }
    assert!(old.parts().iter().all(|part| !platform.has_blob(part)));
    assert_eq!(client.head(&format!("app/manifests/{}", old.digest())).await, 404);
    assert_eq!(client.head(&format!("app/blobs/{}", digest_of(&old.layer))).await, 404);
    assert_eq!(client.head("app/manifests/v1").await, 200);

    // A release keeps its image when the repository is gone.
    platform.images.forget(&"app".parse().unwrap()).await.unwrap();
    assert_eq!(collect(&platform, &[used.digest()]).await.blobs, 3);
    assert!(used.parts().iter().all(|part| platform.has_blob(part)));
}

#[tokio::test]
async fn nothing_goes_when_what_is_used_is_not_known() {
    let platform = without_grace().await;
    platform.client().push_blob("app", b"blob").await;
    let error = platform.images.collect(&InUse(Err("the database is away".to_owned()))).await.unwrap_err();
    assert!(matches!(error, CollectError::UseUnknown(_)));
    assert!(platform.has_blob(&digest_of(b"blob")));
}

#[tokio::test]
async fn what_was_wanted_lately_stays() {
    let platform = Platform::start().await;
    let image = TestImage::new("one");
    platform.client().push_image("app", image.digest().as_str(), &image).await;
    let source = Platform::start().await;
    let pulled = TestImage::new("pulled");
    source.client().push_image("app", "v1", &pulled).await;
    let name = format!("{}/app:v1", source.host);
    platform.images.resolve(&org("acme"), &name, PullCredentials::Bearer("all".into())).await.unwrap();
    assert_eq!(collect(&platform, &[]).await, Collected::default());

    // Long ago, except for what a pusher just asked for.
    let past = std::time::SystemTime::now() - Duration::from_secs(7_200);
    for blob in platform.files("blobs/sha256") {
        let file = std::fs::File::open(platform.data.join("blobs/sha256").join(blob)).unwrap();
        file.set_modified(past).unwrap();
    }
    let layer = digest_of(&image.layer);
    assert_eq!(platform.client().head(&format!("app/blobs/{layer}")).await, 200);
    assert_eq!(collect(&platform, &[]).await.blobs, 5);
    assert!(platform.has_blob(&layer));
}

#[tokio::test]
async fn while_a_push_to_a_repository_goes_on_what_it_holds_stays() {
    let platform = without_grace().await;
    let client = platform.client();
    let (pushed, elsewhere) = (client.push_blob("app", b"first").await, client.push_blob("other", b"second").await);
    let upload = client.open_upload("app").await;
    assert_eq!(collect(&platform, &[]).await.blobs, 1);
    assert!(platform.has_blob(&pushed) && !platform.has_blob(&elsewhere));
    assert_eq!(client.delete(&upload).await, 204);
    assert_eq!(collect(&platform, &[]).await.blobs, 1);
}

#[tokio::test]
async fn indexes_keep_their_images_and_subjects_their_referrers() {
    let platform = without_grace().await;
    let client = platform.client();
    let image = TestImage::new("one");
    client.push_image("app", image.digest().as_str(), &image).await;
    client.push_manifest("app", "all", OCI_INDEX, &index_of(&[(&image, "linux", "amd64")])).await;
    client.push_blob("app", b"{}").await;
    let signature = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor("text/sig", b"{}"), "layers": [],
        "subject": descriptor(OCI_MANIFEST, image.manifest().to_string().as_bytes()),
    });
    let signature_digest = digest_of(signature.to_string().as_bytes());
    client.push_manifest("app", signature_digest.as_str(), OCI_MANIFEST, &signature).await;

    assert_eq!(collect(&platform, &[]).await, Collected::default());
    assert_eq!(client.head(&format!("app/manifests/{signature_digest}")).await, 200);
    assert_eq!(client.delete("app/manifests/all").await, 202);
    assert_eq!(collect(&platform, &[]).await.blobs, 6);
    let referrers = client.get(&format!("app/referrers/{}", image.digest())).await;
    assert_eq!(referrers.json::<serde_json::Value>().await.unwrap()["manifests"], json!([]));
}

#[tokio::test]
async fn the_root_filesystem_of_an_image_goes_with_it() {
    let platform = without_grace().await;
    let image = TestImage::new("one");
    let digest = platform.client().push_image("app", "v1", &image).await;
    let spec = ImageSpec { reference: "app:v1".to_owned(), digest: digest.clone() };
    let rootfs = platform.images.rootfs(&spec).await.unwrap();
    assert_eq!(collect(&platform, &[]).await.root_filesystems, 0);
    assert!(rootfs.path.exists());
    platform.client().delete("app/manifests/v1").await;
    assert_eq!(collect(&platform, std::slice::from_ref(&digest)).await, Collected::default());
    assert_eq!(collect(&platform, &[]).await.root_filesystems, 1);
    assert!(!rootfs.path.exists());
}

/// What clients and the platform do, in any order.
#[derive(Debug, Clone)]
enum Step {
    /// Push one blob of an image: its layer, or else its configuration.
    PushBlob {
        repository: usize,
        image: usize,
        layer: bool,
    },
    /// Push the manifest of an image, by digest or under the tag `t<image>`.
    PushManifest {
        repository: usize,
        image: usize,
        tagged: bool,
    },
    /// Push all of an image.
    PushImage {
        repository: usize,
        image: usize,
        tagged: bool,
    },
    /// Push an index of two images under the tag `t<tag>`.
    PushIndex {
        repository: usize,
        images: [usize; 2],
        tag: usize,
    },
    DeleteTag {
        repository: usize,
        tag: usize,
    },
    DeleteManifest {
        repository: usize,
        image: usize,
    },
    Use {
        image: usize,
    },
    Release,
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    let (repository, image, yes) = (0..2_usize, 0..3_usize, any::<bool>());
    let push = (repository.clone(), image.clone(), yes);
    prop_oneof![
        2 => push.clone().prop_map(|(repository, image, layer)| Step::PushBlob { repository, image, layer }),
        2 => push.clone().prop_map(|(repository, image, tagged)| Step::PushManifest { repository, image, tagged }),
        4 => push.prop_map(|(repository, image, tagged)| Step::PushImage { repository, image, tagged }),
        4 => (repository.clone(), [image.clone(), image.clone()], 3..5_usize)
            .prop_map(|(repository, images, tag)| Step::PushIndex { repository, images, tag }),
        2 => (repository.clone(), 0..5_usize).prop_map(|(repository, tag)| Step::DeleteTag { repository, tag }),
        1 => (repository, image.clone()).prop_map(|(repository, image)| Step::DeleteManifest { repository, image }),
        1 => image.prop_map(|image| Step::Use { image }),
        1 => Just(Step::Release),
        4 => Just(Step::Collect),
    ]
}

const REPOSITORIES: [&str; 2] = ["app", "team/app"];

/// A run: what the clients were told, next to what they may rely on.
struct Run {
    platform: Platform,
    client: Client,
    images: [TestImage; 3],
    in_use: HashSet<Digest>,
    /// What each tag points to: the digest, and the images below it.
    tags: std::collections::BTreeMap<(usize, usize), (Digest, Vec<usize>)>,
}

impl Run {
    async fn new() -> Self {
        let platform = without_grace().await;
        let client = platform.client();
        let images = ["one", "two", "three"].map(TestImage::new);
        Self { platform, client, images, in_use: HashSet::new(), tags: Default::default() }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::PushBlob { repository, image, layer } => {
                let image = &self.images[image];
                let blob = if layer { &image.layer } else { &image.config };
                self.client.push_blob(REPOSITORIES[repository], blob).await;
            }
            Step::PushManifest { repository, image, tagged } => self.push_manifest(repository, image, tagged).await,
            Step::PushImage { repository, image, tagged } => {
                for blob in [&self.images[image].config, &self.images[image].layer] {
                    self.client.push_blob(REPOSITORIES[repository], blob).await;
                }
                self.push_manifest(repository, image, tagged).await;
            }
            Step::PushIndex { repository, images, tag } => {
                let entries = images.map(|image| (&self.images[image], "linux", "amd64"));
                let index = index_of(&entries);
                let path = format!("t{tag}");
                let pushed = self.client.put_manifest(REPOSITORIES[repository], &path, OCI_INDEX, &index).await;
                if pushed.status() == 201 {
                    let digest = digest_of(index.to_string().as_bytes());
                    self.tags.insert((repository, tag), (digest, images.to_vec()));
                }
            }
            Step::DeleteTag { repository, tag } => {
                let path = format!("{}/manifests/t{tag}", REPOSITORIES[repository]);
                let told = self.client.delete(&path).await;
                assert_eq!(self.tags.remove(&(repository, tag)).is_some(), told == 202);
            }
            Step::DeleteManifest { repository, image } => {
                let digest = self.images[image].digest();
                // An index would be left without its image: its owner's wish, and no matter of the collector.
                let below_index =
                    |(digest_, images): &(Digest, Vec<usize>)| *digest_ != digest && images.contains(&image);
                if !self.tags.values().any(below_index) {
                    self.client.delete(&format!("{}/manifests/{digest}", REPOSITORIES[repository])).await;
                    self.tags.retain(|(in_, _), (digest_, _)| *in_ != repository || *digest_ != digest);
                }
            }
            // A release can only begin to use what was found whole.
            Step::Use { image } => {
                let digest = self.images[image].digest();
                for repository in REPOSITORIES {
                    let name = format!("registry.test/{repository}@{digest}");
                    let found = self.platform.images.resolve(&org("acme"), &name, PullCredentials::Anonymous).await;
                    if found.is_ok() {
                        self.in_use.insert(digest.clone());
                    }
                }
            }
            Step::Release => self.in_use.clear(),
            Step::Collect => {
                let in_use: Vec<Digest> = self.in_use.iter().cloned().collect();
                collect(&self.platform, &in_use).await;
            }
        }
    }

    /// Pushes a manifest, which is refused if a part of it is missing.
    async fn push_manifest(&mut self, repository: usize, image: usize, tagged: bool) {
        let (name, pushed) = (REPOSITORIES[repository], &self.images[image]);
        let reference = if tagged { format!("t{image}") } else { pushed.digest().to_string() };
        let put = self.client.put_manifest(name, &reference, OCI_MANIFEST, &pushed.manifest()).await;
        if put.status() == 201 && tagged {
            self.tags.insert((repository, image), (pushed.digest(), vec![image]));
        }
    }

    /// Everything that a tag or a user reaches is there.
    async fn check(&self) {
        for ((repository, tag), (digest, images)) in &self.tags {
            let name = REPOSITORIES[*repository];
            let found = self.client.get(&format!("{name}/manifests/t{tag}")).await;
            assert_eq!(header_of(&found, "docker-content-digest"), digest.as_str());
            for image in images {
                let [manifest, config, layer] = self.images[*image].parts();
                assert_eq!(self.client.head(&format!("{name}/manifests/{manifest}")).await, 200);
                for blob in [config, layer] {
                    assert_eq!(self.client.head(&format!("{name}/blobs/{blob}")).await, 200);
                }
            }
        }
        for image in self.images.iter().filter(|image| self.in_use.contains(&image.digest())) {
            assert!(image.parts().iter().all(|part| self.platform.has_blob(part)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn whatever_the_order_nothing_reachable_is_lost(steps in prop::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new().await;
            for step in steps {
                run.take(step).await;
            }
            run.check().await;
            let in_use: Vec<Digest> = run.in_use.iter().cloned().collect();
            collect(&run.platform, &in_use).await;
            run.check().await;
            // And nothing else is kept.
            run.tags.clear();
            for repository in ["app", "team"] {
                run.platform.images.forget(&repository.parse().unwrap()).await.unwrap();
            }
            collect(&run.platform, &[]).await;
            assert_eq!(run.platform.files("blobs/sha256"), [""; 0]);
        });
    }
}

/// Pushes and collections at the same time: a push that was told "created" is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_never_takes_from_a_push_that_succeeds() {
    let platform = without_grace().await;
    let client = platform.client();
    let mut succeeded = 0;
    for round in 0..150 {
        // The same content again and again, deleted in between: it is always on its way in and out.
        let image = TestImage::new(if round % 2 == 0 { "even" } else { "odd" });
        let begin = tokio::sync::Notify::new();
        let (pushed, _) = tokio::join!(push(&client, &image, [2, 0, 2, 1, 2][round % 5], &begin), async {
            begin.notified().await;
            collect(&platform, &[]).await
        });
        if pushed {
            succeeded += 1;
            let [_, config, layer] = image.parts();
            for path in [format!("app/blobs/{config}"), format!("app/blobs/{layer}"), "app/manifests/v1".to_owned()] {
                assert_eq!(client.head(&path).await, 200, "round {round}: {path}");
            }
            assert_eq!(client.delete("app/manifests/v1").await, 202);
        }
    }
    assert!(succeeded > 0, "no push got through, so nothing was shown");
}

/// Pushes as Docker does: what is there is not sent; `begin` is told at one of the three requests that matter. False if
/// something went away before the manifest came: without any grace it may.
async fn push(client: &Client, image: &TestImage, at: usize, begin: &tokio::sync::Notify) -> bool {
    for (number, blob) in [&image.config, &image.layer].into_iter().enumerate() {
        if number == at {
            begin.notify_one();
        }
        if client.head(&format!("app/blobs/{}", digest_of(blob))).await != 200 {
            client.push_blob("app", blob).await;
        }
    }
    if at == 2 {
        begin.notify_one();
    }
    let put = client.put_manifest("app", "v1", OCI_MANIFEST, &image.manifest()).await;
    match put.status().as_u16() {
        201 => true,
        404 => false,
        status => panic!("{status}: {}", put.text().await.unwrap()),
    }
}
