//! Keeping a guest's memory in a directory of its own machine, and going on with it.
//!
//! ```text
//!   <machine>/memory/ram        the guest's memory, as it was
//!   <machine>/memory/devices    what its devices and processors knew
//! ```
//!
//! Firecracker writes both into its jail, from where they are moved, and reads them there. The guest's memory is mapped,
//! not read: what the guest does not touch stays on the disk. Its user could have put something else in their place that
//! lies in the jail, such as a kernel that others boot, so that only what is its own is taken.

use std::{
    fs::{self, File},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
    time::Duration,
};

use serde_json::json;

use super::{API_SOCKET, api::Api, link, root};
use crate::vmm::{VmRecord, VmUser, VmmError, remove_memory, setup_error, socket, spawn};

/// How long it may take to write a guest's memory, which may be large, or to map it.
const PATIENCE: Duration = Duration::from_secs(300);
const FILES: [&str; 2] = ["ram", "devices"];

/// Writes a VM's memory into a directory, which only root can look into. On an error the guest goes on, or its process is
/// ended: a guest that stands still for ever would be worse.
pub(super) async fn write(vm: &VmRecord, memory: &Path) -> Result<(), VmmError> {
    let root = root(&vm.machine, &vm.dir).map_err(setup_error("look into", &vm.dir))?;
    let mut api = connect(&root).await?;
    let written = match freeze(&mut api).await {
        Ok(()) => {
            let (from, to) = (root.clone(), memory.to_owned());
            spawn::blocking(move || keep(&from, &to)).await
        }
        Err(error) => Err(error),
    };
    if written.is_err() {
        FILES.iter().for_each(|name| drop(fs::remove_file(root.join(name))));
        let _ = remove_memory(memory);
        if thaw(&root).await.is_err() {
            let _ = vm.process.kill().await;
        }
    }
    written
}

async fn connect(root: &Path) -> Result<Api, VmmError> {
    let control = socket::connect(root, API_SOCKET).await.map_err(setup_error("connect to", root))?;
    Api::over(control).await
}

/// Has a guest go on that stands still: over a connection of its own, since another may be amid a request.
async fn thaw(root: &Path) -> Result<(), VmmError> {
    connect(root).await?.patch_within(PATIENCE, "/vm", &json!({ "state": "Resumed" })).await
}

/// Stops a guest and has all of it written into the jail.
async fn freeze(api: &mut Api) -> Result<(), VmmError> {
    api.patch_within(PATIENCE, "/vm", &json!({ "state": "Paused" })).await?;
    let [ram, devices] = FILES;
    let files = json!({ "snapshot_type": "Full", "snapshot_path": devices, "mem_file_path": ram });
    api.put_within(PATIENCE, "/snapshot/create", &files).await
}

/// Moves what was written out of the jail. What is noted in the ledger as kept must be on the disk.
fn keep(root: &Path, memory: &Path) -> Result<(), VmmError> {
    remove_memory(memory).map_err(setup_error("remove", memory))?;
    fs::DirBuilder::new().mode(0o700).create(memory).map_err(setup_error("make", memory))?;
    let owner = fs::metadata(root).map_err(setup_error("look at", root))?.uid();
    for name in FILES {
        let kept = memory.join(name);
        fs::rename(root.join(name), &kept).map_err(setup_error("move", &kept))?;
        // Looked at only where its user cannot change it any more.
        let is_its_own = fs::symlink_metadata(&kept)
            .is_ok_and(|found| found.is_file() && found.uid() == owner && found.nlink() == 1);
        if !is_its_own {
            return Err(VmmError::Plan(format!("what Firecracker has left as {} is no memory", kept.display())));
        }
        File::open(&kept).and_then(|file| file.sync_all()).map_err(setup_error("write", &kept))?;
    }
    File::open(memory).and_then(|directory| directory.sync_all()).map_err(setup_error("write", memory))
}

/// Puts kept memory into a jail.
pub(super) fn furnish(root: &Path, memory: &Path, user: VmUser) -> Result<(), VmmError> {
    for name in FILES {
        let kept = memory.join(name);
        spawn::give(&kept, user)?;
        link(&kept, &root.join(name))?;
    }
    Ok(())
}

/// Has a Firecracker that has done nothing yet go on with the memory in its jail, which is written anew when the guest is
/// kept again, and not over what it has mapped.
pub(super) async fn go_on(api: &mut Api, root: &Path) -> Result<(), VmmError> {
    let [ram, devices] = FILES;
    let memory = json!({ "backend_type": "File", "backend_path": ram });
    let files = json!({ "snapshot_path": devices, "mem_backend": memory, "resume_vm": true });
    api.put_within(PATIENCE, "/snapshot/load", &files).await?;
    FILES.iter().try_for_each(|name| fs::remove_file(root.join(name)).map_err(setup_error("remove", root)))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn only_files_that_are_its_own_are_taken_out_of_a_jail() {
        let scratch = tempfile::tempdir().unwrap();
        let (jail, memory, others) =
            (scratch.path().join("jail"), scratch.path().join("memory"), scratch.path().join("kernel"));
        fs::write(&others, "everybody boots this").unwrap();
        let furnish = |ram: &dyn Fn(&Path) -> io::Result<()>| {
            let _ = fs::remove_dir_all(&jail);
            fs::create_dir(&jail).unwrap();
            fs::write(jail.join("devices"), "d").unwrap();
            ram(&jail.join("ram")).unwrap();
            keep(&jail, &memory)
        };
        furnish(&|ram| fs::write(ram, "r")).unwrap();
        assert_eq!(fs::read_to_string(memory.join("ram")).unwrap(), "r");
        // Kept once more, over what was kept before.
        furnish(&|ram| fs::write(ram, "again")).unwrap();
        assert_eq!(fs::read_to_string(memory.join("ram")).unwrap(), "again");
        furnish(&|ram| fs::hard_link(&others, ram)).unwrap_err();
        furnish(&|ram| std::os::unix::fs::symlink(&others, ram)).unwrap_err();
        furnish(&|ram| fs::create_dir(ram)).unwrap_err();
        assert_eq!(fs::read_to_string(&others).unwrap(), "everybody boots this");
    }
}
