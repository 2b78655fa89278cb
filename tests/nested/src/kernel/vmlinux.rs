//! Takes the ELF file out of a bzImage: booting it saves the seconds that unpacking takes under emulation.

use crate::tool::{self, ToolError};
use std::io::Write as _;
use std::process::Command;

/// Where the boot protocol keeps what is used here.
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const XZ: [u8; 4] = [0xfd, b'7', b'z', b'X'];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// What each chunk of the legacy format unpacks to at most.
const LZ4_CHUNK_BYTES_MAX: usize = 8 << 20;

/// A kernel image is not understood.
#[derive(Debug, thiserror::Error)]
pub enum VmlinuxError {
    /// It is no bzImage.
    #[error("it is no bzImage")]
    NoBzImage,
    /// Its payload lies outside of it.
    #[error("it is cut off")]
    CutOff,
    /// It is packed in a way that is not known here.
    #[error("its payload begins with {0:02x?}, which is neither lz4, xz, zstd nor gzip")]
    Packing([u8; 4]),
    /// Its payload is damaged.
    #[error("its payload is damaged at byte {0}")]
    Damaged(usize),
    /// A program that unpacks it fails.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A temporary file cannot be written.
    #[error("a temporary file cannot be written")]
    Temporary(#[from] std::io::Error),
    /// What comes out is no ELF file.
    #[error("what is in it is no ELF file")]
    NoElf,
}

/// The ELF file in `image`; an ELF file is itself.
pub(super) fn unpack(image: &[u8]) -> Result<Vec<u8>, VmlinuxError> {
    if image.starts_with(b"\x7fELF") {
        return Ok(image.to_vec());
    }
    if image.get(MAGIC..MAGIC + 4) != Some(b"HdrS".as_slice()) {
        return Err(VmlinuxError::NoBzImage);
    }
    // Zero means four, from times before the field.
    let sectors = match image[SETUP_SECTORS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * SECTOR + word(image, PAYLOAD_OFFSET)?;
    let length = word(image, PAYLOAD_LENGTH)?;
    let payload = start.checked_add(length).and_then(|end| image.get(start..end)).ok_or(VmlinuxError::CutOff)?;
    let magic = payload.first_chunk::<4>().ok_or(VmlinuxError::CutOff)?;
    let elf = match *magic {
        LZ4_LEGACY => lz4(payload)?,
        XZ => by_program(without_length(payload), "xz", "xz-utils")?,
        ZSTD => by_program(without_length(payload), "zstd", "zstd")?,
        // Its own format ends with the length.
        [a, b, ..] if [a, b] == GZIP => by_program(payload, "gzip", "gzip")?,
        other => return Err(VmlinuxError::Packing(other)),
    };
    if elf.starts_with(b"\x7fELF") { Ok(elf) } else { Err(VmlinuxError::NoElf) }
}

fn word(bytes: &[u8], at: usize) -> Result<usize, VmlinuxError> {
    let word = bytes.get(at..at + 4).and_then(|word| word.first_chunk::<4>()).ok_or(VmlinuxError::CutOff)?;
    usize::try_from(u32::from_le_bytes(*word)).map_err(|_| VmlinuxError::CutOff)
}

/// Chunks with their lengths before them; the last four bytes are the length of the whole, which the kernel's build adds.
fn lz4(payload: &[u8]) -> Result<Vec<u8>, VmlinuxError> {
    let whole = word(payload, payload.len() - 4)?;
    let mut out = Vec::with_capacity(whole.min(256 << 20));
    let mut chunk = vec![0; LZ4_CHUNK_BYTES_MAX];
    let mut at = LZ4_LEGACY.len();
    while out.len() < whole {
        let length = word(payload, at)?;
        at += 4;
        let packed = payload.get(at..at.saturating_add(length)).ok_or(VmlinuxError::Damaged(at))?;
        let unpacked = lz4_flex::block::decompress_into(packed, &mut chunk).map_err(|_| VmlinuxError::Damaged(at))?;
        if unpacked == 0 {
            return Err(VmlinuxError::Damaged(at));
        }
        out.extend_from_slice(&chunk[..unpacked]);
        at += length;
    }
    Ok(out)
}

/// The length behind the payload is the kernel's build's, not the packer's.
fn without_length(payload: &[u8]) -> &[u8] {
    &payload[..payload.len() - 4]
}

fn by_program(payload: &[u8], program: &str, package: &'static str) -> Result<Vec<u8>, VmlinuxError> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(payload)?;
    Ok(tool::run(Command::new(program).args(["-d", "-c", "--"]).arg(file.path()), package)?)
}

#[cfg(test)]
mod tests {
    use super::{VmlinuxError, unpack};

    /// A bzImage as far as it is looked at.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    fn packed(content: &[u8]) -> Vec<u8> {
        let chunk = lz4_flex::block::compress(content);
        let mut payload = super::LZ4_LEGACY.to_vec();
        payload.extend_from_slice(&u32::try_from(chunk.len()).unwrap().to_le_bytes());
        payload.extend_from_slice(&chunk);
        payload.extend_from_slice(&u32::try_from(content.len()).unwrap().to_le_bytes());
        payload
    }

    #[test]
    fn the_elf_file_comes_out() {
        let elf = [b"\x7fELF".as_slice(), &[7; 5000]].concat();
        assert_eq!(unpack(&image(&packed(&elf))).unwrap(), elf);
        assert_eq!(unpack(&elf).unwrap(), elf);
    }

    #[test]
    fn gzip_ends_with_its_own_length() {
        let elf = [b"\x7fELF".as_slice(), &[7; 5000]].concat();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &elf).unwrap();
        let packed = std::process::Command::new("gzip").arg("-c").arg(file.path()).output().unwrap();
        assert_eq!(unpack(&image(&packed.stdout)).unwrap(), elf);
    }

    #[test]
    fn damaged_images_are_refused() {
        assert!(matches!(unpack(b"MZ"), Err(VmlinuxError::NoBzImage)));
        assert!(matches!(unpack(&image(&packed(b"no elf file"))), Err(VmlinuxError::NoElf)));
        assert!(matches!(unpack(&image(b"????????")), Err(VmlinuxError::Packing(_))));
        let mut cut = image(&packed(&[1; 100]));
        cut.truncate(cut.len() - 10);
        assert!(matches!(unpack(&cut), Err(VmlinuxError::CutOff)));
        let mut wrong = packed(&[1; 5000]);
        wrong[4] = 0xff;
        assert!(matches!(unpack(&image(&wrong)), Err(VmlinuxError::Damaged(_))));
    }
}
