//! Compression.

use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io::{Read, Write};
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

/// How far back quick levels look, as a power of two of bytes. What repeats in WAL and pages repeats soon: the default of 2 MiB costs
/// a seventh more time for WAL of pgbench, and finds no more.
const QUICK_WINDOW_LOG: u32 = 19;
const QUICK_UP_TO: i32 = 3;

thread_local! {
    static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
}

/// How content is compressed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Not at all.
    None,
    /// Zstandard: small.
    #[default]
    Zstd,
    /// LZ4 in its frame format: fast.
    Lz4,
}

impl Codec {
    /// The compressed form. `level` is for Zstandard, 1 to 19.
    pub(crate) fn compress(self, content: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
        match self {
            Codec::None => Ok(content.to_vec()),
            Codec::Zstd => COMPRESSOR.with_borrow_mut(|kept| {
                // To make one takes as long as to compress a megabyte.
                let compressor = match kept {
                    Some((of, compressor)) if *of == level => compressor,
                    other => {
                        let mut compressor = Compressor::new(level)?;
                        if level <= QUICK_UP_TO {
                            compressor.set_parameter(CParameter::WindowLog(QUICK_WINDOW_LOG))?;
                        }
                        &mut other.insert((level, compressor)).1
                    }
                };
                compressor.compress(content)
            }),
            Codec::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::with_capacity(content.len() / 2));
                encoder.write_all(content)?;
                Ok(encoder.finish()?)
            }
        }
    }

    /// The content, which has exactly `bytes`; anything else is an error.
    pub(crate) fn decompress(self, payload: &[u8], bytes: usize) -> std::io::Result<Vec<u8>> {
        let content = match self {
            Codec::None => payload.to_vec(),
            Codec::Zstd => zstd::bulk::decompress(payload, bytes)?,
            Codec::Lz4 => {
                let mut content = Vec::with_capacity(bytes);
                // One more than there may be, so that a longer content is seen and a huge one is not read.
                let most = bytes as u64 + 1;
                lz4_flex::frame::FrameDecoder::new(payload)
                    .take(most)
                    .read_to_end(&mut content)?;
                content
            }
        };
        if content.len() != bytes {
            return Err(std::io::Error::other(format!(
                "it has {} bytes, {bytes} were written",
                content.len()
            )));
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_compressed_comes_back() {
        let content: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for codec in [Codec::None, Codec::Zstd, Codec::Lz4] {
            for content in [&content[..], &[]] {
                let payload = codec.compress(content, 1).expect("compresses");
                let back = codec.decompress(&payload, content.len()).expect("comes back");
                assert!(back == content, "{codec:?}");
                assert!(
                    codec.decompress(&payload, content.len() + 1).is_err(),
                    "{codec:?}"
                );
            }
            let payload = codec.compress(&content, 1).expect("compresses");
            assert!(
                codec.decompress(&payload, content.len() - 1).is_err(),
                "{codec:?}"
            );
        }
    }
}
