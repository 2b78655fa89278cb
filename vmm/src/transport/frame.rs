//! Messages between machines as bytes of a stream, and what comes with them.
//!
//! A frame: length of the message (4 bytes), number of descriptors (1), the message; for each descriptor its kind (1), for a
//! content its length (8) and bytes. What is read is hostile: no number in it is believed before it was held against its bound,
//! and nothing is kept that was not received.

use super::MESSAGE_BYTES_MAX;
use ft_protocol::wire::EXTENTS_MAX;
use std::io::{self, Read, Write};

/// Largest content of a descriptor that is no part of the pool.
pub const CONTENT_BYTES_MAX: u64 = 1 << 30;

const HEAD_BYTES: usize = 5;
const DEVICE_READ_ONLY: u8 = 1;
const DEVICE_READ_WRITE: u8 = 2;
const CONTENT: u8 = 3;

/// What goes in place of a descriptor.
#[derive(Debug, PartialEq, Eq)]
pub enum Carried<C> {
    /// The pool's device, to be read.
    DeviceReadOnly,
    /// The pool's device, to be read and written.
    DeviceReadWrite,
    /// The content of any other file.
    Content(C),
}

/// A message, and what came with it.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<C> {
    /// The message.
    pub message: Vec<u8>,
    /// What came with it.
    pub carried: Vec<Carried<C>>,
}

/// A stream cannot be carried on.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A message that no program of ftvm sends.
    #[error(
        "a frame of {length} bytes and {carried} descriptors, at most {MESSAGE_BYTES_MAX} and {EXTENTS_MAX} are taken"
    )]
    Head {
        /// Its length.
        length: usize,
        /// How many descriptors are said to follow.
        carried: u8,
    },
    /// Something that is neither the device nor a content.
    #[error("a descriptor of unknown kind {0}")]
    Kind(u8),
    /// A file that is too large.
    #[error("a file of {0} bytes is not carried to another machine, at most {CONTENT_BYTES_MAX}")]
    TooLarge(u64),
    /// The stream ended, or a file did.
    #[error("the stream ends in the middle of a frame")]
    CutOff,
    /// The stream failed.
    #[error("the stream failed")]
    Stream(#[source] io::Error),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::CutOff } else { Self::Stream(error) }
    }
}

/// Reads the next frame; `None`: the stream has ended. `keep` takes the bytes of a content from the reader that it is given, and
/// says how many there were.
///
/// # Errors
/// The stream fails, ends in the middle, or says what no program of ftvm says.
pub fn read_frame<R: Read, C>(
    from: &mut R,
    mut keep: impl FnMut(io::Take<&mut R>) -> io::Result<(C, u64)>,
) -> Result<Option<Frame<C>>, FrameError> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    from.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    let [a, b, c, d, carried] = match *head.as_slice() {
        [] => return Ok(None),
        [a, b, c, d, carried] => [a, b, c, d, carried],
        _ => return Err(FrameError::CutOff),
    };
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > MESSAGE_BYTES_MAX || usize::from(carried) > EXTENTS_MAX {
        return Err(FrameError::Head { length, carried });
    }
    let mut message = vec![0; length];
    from.read_exact(&mut message)?;
    let carried = (0..carried).map(|_| read_carried(from, &mut keep)).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(Frame { message, carried }))
}

fn read_carried<R: Read, C>(
    from: &mut R,
    keep: &mut impl FnMut(io::Take<&mut R>) -> io::Result<(C, u64)>,
) -> Result<Carried<C>, FrameError> {
    let mut kind = [0];
    from.read_exact(&mut kind)?;
    match kind[0] {
        DEVICE_READ_ONLY => Ok(Carried::DeviceReadOnly),
        DEVICE_READ_WRITE => Ok(Carried::DeviceReadWrite),
        CONTENT => {
            let mut length = [0; 8];
            from.read_exact(&mut length)?;
            let length = u64::from_le_bytes(length);
            if length > CONTENT_BYTES_MAX {
                return Err(FrameError::TooLarge(length));
            }
            let (content, found) = keep(from.take(length))?;
            if found == length { Ok(Carried::Content(content)) } else { Err(FrameError::CutOff) }
        }
        other => Err(FrameError::Kind(other)),
    }
}

/// Begins a frame, which so many descriptors follow.
///
/// # Errors
/// The stream fails.
pub fn write_message(to: &mut impl Write, message: &[u8], carried: usize) -> Result<(), FrameError> {
    let count = u8::try_from(carried).unwrap_or(u8::MAX);
    let length = u32::try_from(message.len()).ok().filter(|_| message.len() <= MESSAGE_BYTES_MAX);
    let Some(length) = length.filter(|_| carried <= EXTENTS_MAX) else {
        return Err(FrameError::Head { length: message.len(), carried: count });
    };
    let mut frame = length.to_le_bytes().to_vec();
    frame.push(count);
    frame.extend_from_slice(message);
    Ok(to.write_all(&frame)?)
}

/// Writes what goes in place of a descriptor; of a content, so many bytes from a reader.
///
/// # Errors
/// The stream fails, or the content is too large or ends early.
pub fn write_carried(to: &mut impl Write, carried: &mut Carried<(impl Read, u64)>) -> Result<(), FrameError> {
    let (content, bytes) = match carried {
        Carried::DeviceReadOnly => return Ok(to.write_all(&[DEVICE_READ_ONLY])?),
        Carried::DeviceReadWrite => return Ok(to.write_all(&[DEVICE_READ_WRITE])?),
        Carried::Content((content, bytes)) => (content, *bytes),
    };
    if bytes > CONTENT_BYTES_MAX {
        return Err(FrameError::TooLarge(bytes));
    }
    to.write_all(&[CONTENT])?;
    to.write_all(&bytes.to_le_bytes())?;
    let copied = io::copy(&mut content.take(bytes), to)?;
    if copied == bytes { Ok(()) } else { Err(FrameError::CutOff) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(mut content: io::Take<&mut &[u8]>) -> io::Result<(Vec<u8>, u64)> {
        let mut bytes = Vec::new();
        let count = content.read_to_end(&mut bytes)?;
        Ok((bytes, count as u64))
    }

    fn stream() -> Vec<u8> {
        let mut stream = Vec::new();
        write_message(&mut stream, b"first", 3).unwrap();
        let content = Carried::Content((&b"a guest"[..], 7));
        for mut carried in [Carried::DeviceReadOnly, content, Carried::DeviceReadWrite] {
            write_carried(&mut stream, &mut carried).unwrap();
        }
        write_message(&mut stream, b"", 0).unwrap();
        stream
    }

    #[test]
    fn frames_are_read_as_they_were_written_and_cut_ones_are_refused() {
        let whole = stream();
        let mut from = whole.as_slice();
        let first = read_frame(&mut from, keep).unwrap().unwrap();
        let content = Carried::Content(b"a guest".to_vec());
        assert_eq!(first.message, b"first");
        assert_eq!(first.carried, [Carried::DeviceReadOnly, content, Carried::DeviceReadWrite]);
        let second = whole.len() - from.len();
        assert_eq!(read_frame(&mut from, keep).unwrap(), Some(Frame { message: Vec::new(), carried: Vec::new() }));
        assert_eq!(read_frame(&mut from, keep).unwrap(), None);
        for length in 1..second {
            let cut = read_frame(&mut &whole[..length], keep);
            assert!(matches!(cut, Err(FrameError::CutOff)), "{length} bytes: {cut:?}");
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_refused_before_anything_is_kept() {
        let read = |bytes: &[u8]| read_frame(&mut &*bytes, keep).unwrap_err();
        assert!(matches!(read(&[0xff; 5]), FrameError::Head { .. }));
        assert!(matches!(read(&[0, 0, 0, 0, 0xff]), FrameError::Head { .. }));
        assert!(matches!(read(&[0, 0, 0, 0, 1, 9]), FrameError::Kind(9)));
        let too_large = [&[0, 0, 0, 0, 1, CONTENT][..], &(CONTENT_BYTES_MAX + 1).to_le_bytes()].concat();
        assert!(matches!(read(&too_large), FrameError::TooLarge(_)));
        let mut nowhere = Vec::new();
        assert!(write_message(&mut nowhere, &vec![0; MESSAGE_BYTES_MAX + 1], 0).is_err());
        assert!(write_message(&mut nowhere, b"", EXTENTS_MAX + 1).is_err());
        let short = &mut Carried::Content((&b"short"[..], 7));
        assert!(matches!(write_carried(&mut nowhere, short), Err(FrameError::CutOff)));
    }
}
