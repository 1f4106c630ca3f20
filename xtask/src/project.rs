//! Where this clone is, and where its build goes.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::cargo;

/// This clone.
pub(crate) struct Project {
    /// The workspace.
    pub(crate) root: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
}

impl Project {
    /// Asks cargo, which alone knows every way that the target folder can be set.
    pub(crate) fn find() -> Result<Self, String> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .parent()
            .map(Path::to_owned)
            .ok_or_else(|| format!("{}: not a folder of the workspace", manifest.display()))?;
        let metadata = cargo::output(
            Command::new(cargo::program())
                .args(["metadata", "--no-deps", "--format-version", "1"])
                .arg("--manifest-path")
                .arg(root.join("Cargo.toml")),
        )?;
        let target = cargo::field(&metadata, "target_directory")
            .map(PathBuf::from)
            .ok_or("cargo metadata names no target_directory")?;
        Ok(Self { root, target })
    }

    /// A cargo command in the workspace that builds into its target folder, wherever the
    /// caller stands (a relative `CARGO_TARGET_DIR` is meant from there).
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(cargo::program());
        command
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target);
        command
    }
}
