//! Which modules need which. Debian makes modules.dep when a kernel is installed; here each module file is asked. Newer
//! kernels' module files are compressed: those that are wanted are unpacked beside the package.

use crate::directory;
use crate::tool::{self, ToolError};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Deepest directory below a kernel's modules.
const DEPTH_MAX: u32 = 12;

/// A module is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The kernel has none of this name.
    #[error("the kernel has no module {0}, and has not built it in")]
    Missing(String),
    /// It is compressed in a way that is not known here.
    #[error("the module {0} is compressed, but neither by xz, zstd nor gzip")]
    Compressed(PathBuf),
    /// A program that unpacks it fails.
    #[error("the module {path} cannot be unpacked")]
    Unpack {
        /// The file.
        path: PathBuf,
        /// What the program said.
        source: ToolError,
    },
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The modules of a kernel, and those that are wanted.
pub(super) struct Modules {
    files: BTreeMap<String, PathBuf>,
    built_in: Vec<String>,
    order: Vec<String>,
    /// Where unpacked files are kept.
    unpacked: PathBuf,
}

impl Modules {
    pub(super) fn find(root: &Path, unpacked: &Path) -> Result<Self, ModuleError> {
        let mut files = BTreeMap::new();
        collect(root, DEPTH_MAX, &mut files)?;
        let list = root.join("modules.builtin");
        let built_in = fs::read_to_string(&list).map_err(|source| ModuleError::Read { path: list.clone(), source })?;
        let built_in = built_in.lines().filter_map(|line| name_of(Path::new(line))).collect();
        Ok(Self { files, built_in, order: Vec::new(), unpacked: unpacked.to_owned() })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.files.contains_key(&plain(name))
    }

    /// Wants a module, after all that it needs.
    pub(super) fn want(&mut self, name: &str) -> Result<(), ModuleError> {
        let name = plain(name);
        if self.order.contains(&name) || self.built_in.contains(&name) {
            return Ok(());
        }
        let path = self.files.get(&name).ok_or_else(|| ModuleError::Missing(name.clone()))?.clone();
        let path = self.plain_file(&name, path)?;
        let bytes = fs::read(&path).map_err(|source| ModuleError::Read { path: path.clone(), source })?;
        for needed in needed_by(&bytes) {
            self.want(&needed)?;
        }
        self.files.insert(name.clone(), path);
        self.order.push(name);
        Ok(())
    }

    /// The module's file as the kernel takes it without knowing how to unpack.
    fn plain_file(&self, name: &str, path: PathBuf) -> Result<PathBuf, ModuleError> {
        let (program, package) = match path.extension().and_then(|extension| extension.to_str()) {
            Some("ko") => return Ok(path),
            Some("xz") => ("xz", "xz-utils"),
            Some("zst") => ("zstd", "zstd"),
            Some("gz") => ("gzip", "gzip"),
            _ => return Err(ModuleError::Compressed(path)),
        };
        let plain = self.unpacked.join(format!("{name}.ko"));
        if plain.exists() {
            return Ok(plain);
        }
        let bytes = tool::run(Command::new(program).args(["-d", "-c", "--"]).arg(&path), package)
            .map_err(|source| ModuleError::Unpack { path: path.clone(), source })?;
        let written = fs::create_dir_all(&self.unpacked).and_then(|()| directory::write_whole(&plain, &bytes));
        written.map_err(|source| ModuleError::Read { path: plain.clone(), source })?;
        Ok(plain)
    }

    pub(super) fn in_order(&self) -> Vec<PathBuf> {
        self.order.iter().map(|name| self.files[name].clone()).collect()
    }
}

fn collect(place: &Path, depth: u32, files: &mut BTreeMap<String, PathBuf>) -> Result<(), ModuleError> {
    let read = |source| ModuleError::Read { path: place.to_owned(), source };
    for entry in fs::read_dir(place).map_err(read)? {
        let entry = entry.map_err(read)?;
        let path = entry.path();
        if entry.file_type().map_err(read)?.is_dir() && depth > 0 {
            collect(&path, depth - 1, files)?;
        } else if let Some(name) = name_of(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The name of the module in a file; none when it is none.
fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, rest) = file.split_once(".ko")?;
    (rest.is_empty() || rest.starts_with('.')).then(|| plain(name))
}

/// Dashes and underscores are one in names of modules.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// What a module says that it links with.
fn needed_by(module: &[u8]) -> Vec<String> {
    module
        .split(|&byte| byte == 0)
        .filter_map(|field| field.strip_prefix(b"depends="))
        .flat_map(|names| names.split(|&byte| byte == b','))
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{ModuleError, Modules};
    use std::fs;

    #[test]
    fn compressed_modules_are_unpacked() {
        let (root, unpacked) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(root.path().join("modules.builtin"), "").unwrap();
        fs::write(root.path().join("virtio-net.ko"), b"x\0depends=\0y").unwrap();
        let packed = std::process::Command::new("gzip").arg(root.path().join("virtio-net.ko")).status();
        assert!(packed.unwrap().success());
        let mut modules = Modules::find(root.path(), &unpacked.path().join("modules")).unwrap();
        modules.want("virtio_net").unwrap();
        assert_eq!(fs::read(&modules.in_order()[0]).unwrap(), b"x\0depends=\0y");
        fs::write(root.path().join("ring.ko.br"), b"?").unwrap();
        let mut modules = Modules::find(root.path(), unpacked.path()).unwrap();
        assert!(matches!(modules.want("ring"), Err(ModuleError::Compressed(_))));
    }

    #[test]
    fn what_a_module_needs_comes_before_it() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("kernel/drivers");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("virtio-net.ko"), b"x\0depends=ring,failover\0y").unwrap();
        fs::write(deep.join("ring.ko"), b"depends=virtio\0").unwrap();
        fs::write(deep.join("virtio.ko"), b"depends=\0").unwrap();
        fs::write(root.path().join("modules.builtin"), "kernel/net/failover.ko\n").unwrap();
        let mut modules = Modules::find(root.path(), root.path()).unwrap();
        modules.want("virtio_net").unwrap();
        modules.want("ring").unwrap();
        let names: Vec<_> = modules.in_order().iter().map(|p| p.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["virtio.ko", "ring.ko", "virtio-net.ko"]);
        assert!(modules.want("nothing").is_err());
        assert!(!modules.has("failover"), "it is no file");
    }
}
