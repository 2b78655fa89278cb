//! Writes initramfs archives ("newc" format), with what the kernel's unpacking needs and no more.

use std::collections::BTreeSet;
use std::path::{Component, Path};

const MAGIC: &str = "070701";
const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive that is being written.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    count: u32,
}

impl Archive {
    /// Adds a directory, with those above it.
    pub(crate) fn directory(&mut self, path: &str) {
        let mut so_far = String::new();
        for part in Path::new(path).components() {
            let Component::Normal(name) = part else { continue };
            if !so_far.is_empty() {
                so_far.push('/');
            }
            so_far.push_str(&name.to_string_lossy());
            if self.directories.insert(so_far.clone()) {
                self.entry(&so_far.clone(), DIRECTORY, &[], (0, 0));
            }
        }
    }

    /// Adds a file with these permissions.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.parent(path);
        self.entry(path.trim_start_matches('/'), REGULAR | permissions, content, (0, 0));
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.parent(path);
        self.entry(path.trim_start_matches('/'), SYMLINK, to.as_bytes(), (0, 0));
    }

    /// Adds a character device.
    pub(crate) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.parent(path);
        self.entry(path.trim_start_matches('/'), CHARACTER_DEVICE, &[], (major, minor));
    }

    /// The archive, with its end.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    fn parent(&mut self, path: &str) {
        if let Some(parent) = Path::new(path).parent() {
            self.directory(&parent.to_string_lossy());
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8], (major, minor): (u32, u32)) {
        self.count += 1;
        let links = 1;
        let (owner, group, time, device) = (0, 0, 0, 0);
        let size = u32::try_from(content.len()).expect("files of images are small");
        let name_size = u32::try_from(name.len() + 1).expect("names are short");
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        let fields = [self.count, mode, owner, group, links, time, size, device, device, major, minor, name_size, 0];
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn an_entry_is_what_the_format_says() {
        let mut archive = Archive::default();
        archive.file("a/b", 0o755, b"hello");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("07070100000001000041ed"), "the directory comes first: {text}");
        assert_eq!(text.matches("070701").count(), 3, "directory, file, end");
        assert!(text.contains("a/b\0") && text.contains("hello\0\0\x00070701"), "content is padded: {text}");
        assert_eq!(bytes.len() % 4, 0);
    }
}
