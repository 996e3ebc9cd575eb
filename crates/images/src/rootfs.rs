//! Layers to a bootable read-only root filesystem.
