//! Converts the images of an OCI image layout and tells what that cost, one JSON document per image:
//!
//! ```text
//! rootfs_bench <image layout> <empty work directory>
//! {"image":"tag","layer_bytes":…,"seconds":…,"peak_rss_bytes":…,"image_bytes":…,"disk_bytes":…}
//! ```
//!
//! `peak_rss_bytes` is the highest of the process up to then: give it one image for an exact number.

#[path = "../tests/support/layout.rs"]
mod layout;

use std::{os::unix::fs::MetadataExt, path::PathBuf, process::ExitCode, time::Instant};

use api::internal::RootfsSource;
use images::rootfs::{LayerSource, Limits, RootfsStore};
use layout::Layout;
use model::ImageSpec;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [layout, work] = &arguments[..] else {
        eprintln!("usage: rootfs_bench <image layout> <empty work directory>");
        return ExitCode::from(2);
    };
    let layout = Layout::at(layout);
    let store =
        RootfsStore::open(work.clone(), layout.clone(), Limits::default(), 1).expect("the work directory opens");
    for (tag, digest) in layout.images() {
        let layers = layout.layers(&digest).expect("the image is whole").layers;
        let start = Instant::now();
        let rootfs = store.rootfs(&ImageSpec { reference: tag.clone(), digest }).await;
        let seconds = start.elapsed().as_secs_f64();
        let rootfs = match rootfs {
            Ok(rootfs) => rootfs,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        };
        let image = std::fs::metadata(&rootfs.path).expect("the image is there");
        let report = serde_json::json!({
            "image": tag,
            "layer_bytes": layers.iter().map(|layer| layer.size_bytes).sum::<u64>(),
            "seconds": seconds,
            "peak_rss_bytes": peak_rss_bytes(),
            "image_bytes": image.len(),
            "disk_bytes": image.blocks() * 512,
        });
        println!("{report}");
    }
    ExitCode::SUCCESS
}

/// The most memory that this process has had at a time.
fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells about processes");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("with their peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("in kilobytes") * 1024
}
