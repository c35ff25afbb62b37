//! Encryption: AES-256-GCM over chunks, with a key of its own for each object.
//!
//! A data key is wrapped by the operator's key and kept in the repository. The key of an object is derived from its data key
//! and a random salt in the object's header, so a counter makes nonces that are never used twice. Each chunk is bound
//! to the header, to its place, and to being the last one or not: chunks can be neither exchanged nor left out.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 32;
/// Plain bytes of one chunk.
const CHUNK: usize = 64 << 10;
const TAG: usize = 16;
const SALT_BYTES: usize = 32;

/// A key, which is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(crate) [u8; KEY_BYTES]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// Reads 64 hexadecimal digits, as `openssl rand -hex 32` writes them; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Secret> {
        from_hex(text.trim())?.try_into().ok().map(Secret)
    }

    pub(crate) fn random() -> Option<Secret> {
        random().map(Secret)
    }

    /// A name for this key that says nothing about it.
    #[must_use]
    pub fn id(&self) -> String {
        hex(&blake3::derive_key("pgctl repository: name of a key, 1", &self.0)[..8])
    }

    /// `other`, for whoever has this key.
    pub(crate) fn wrap(&self, other: &Secret, name: &str) -> Option<String> {
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut text = other.0.to_vec();
        let key = aead(&self.0)?;
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(name.as_bytes()),
            &mut text,
        )
        .ok()?;
        Some(hex(&[&nonce[..], &text].concat()))
    }

    pub(crate) fn unwrap_key(&self, wrapped: &str, name: &str) -> Option<Secret> {
        let mut bytes = from_hex(wrapped)?;
        if bytes.len() != NONCE_LEN + KEY_BYTES + TAG {
            return None;
        }
        let mut text = bytes.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&bytes).ok()?;
        let plain = aead(&self.0)?
            .open_in_place(nonce, Aad::from(name.as_bytes()), &mut text)
            .ok()?;
        (*plain).try_into().ok().map(Secret)
    }

    fn of_object(&self, salt: &[u8]) -> Option<LessSafeKey> {
        aead(
            blake3::Hasher::new_keyed(&self.0)
                .update(salt)
                .finalize()
                .as_bytes(),
        )
    }
}

/// A new salt, in hexadecimal.
pub(crate) fn salt() -> Option<String> {
    random::<SALT_BYTES>().map(|salt| hex(&salt))
}

/// How long `bytes` become by encryption; nothing is one empty chunk.
pub(crate) fn sealed_length(bytes: usize) -> usize {
    bytes + TAG * bytes.div_ceil(CHUNK).max(1)
}

/// Encrypts; `header` is bound to it.
pub(crate) fn seal(key: &Secret, salt: &str, header: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let key = key.of_object(&from_hex(salt)?)?;
    let chunks = plain.len().div_ceil(CHUNK).max(1);
    let mut sealed = Vec::with_capacity(sealed_length(plain.len()));
    for index in 0..chunks {
        let start = index * CHUNK;
        let from = sealed.len();
        sealed.extend_from_slice(&plain[start..plain.len().min(start + CHUNK)]);
        let nonce = nonce(index, index + 1 == chunks);
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::from(header), &mut sealed[from..])
            .ok()?;
        sealed.extend_from_slice(tag.as_ref());
    }
    Some(sealed)
}

/// Decrypts; `None` if anything is not as it was written.
pub(crate) fn open(key: &Secret, salt: &str, header: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let key = key.of_object(&from_hex(salt)?)?;
    let chunks = sealed.chunks(CHUNK + TAG);
    let count = chunks.len();
    let mut plain = Vec::with_capacity(sealed.len());
    for (index, chunk) in chunks.enumerate() {
        let mut chunk = chunk.to_vec();
        let nonce = nonce(index, index + 1 == count);
        let opened = key.open_in_place(nonce, Aad::from(header), &mut chunk).ok()?;
        plain.extend_from_slice(opened);
    }
    (count > 0).then_some(plain)
}

fn nonce(index: usize, last: bool) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[4..].copy_from_slice(&((index as u64) << 1 | u64::from(last)).to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn aead(key: &[u8; KEY_BYTES]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

/// `length` random bytes in hexadecimal, for names that must not meet.
pub(crate) fn random_name() -> Option<String> {
    random::<8>().map(|bytes| hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encrypted_comes_back_and_nothing_else_does() {
        let key = Secret::random().expect("random");
        let salt = salt().expect("random");
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let plain: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let sealed = seal(&key, &salt, b"header", &plain).expect("encrypts");
            assert_eq!(sealed.len(), sealed_length(length));
            assert_eq!(open(&key, &salt, b"header", &sealed), Some(plain));
            assert_eq!(open(&key, &salt, b"heeder", &sealed), None, "another header");
            let mut bad = sealed.clone();
            bad[length / 2] ^= 1;
            assert_eq!(open(&key, &salt, b"header", &bad), None, "a bad byte");
            assert_eq!(
                open(&key, &salt, b"header", &sealed[..sealed.len() - 1]),
                None,
                "truncated"
            );
        }
        let sealed = seal(&key, &salt, b"", &vec![7; 3 * CHUNK]).expect("encrypts");
        assert_eq!(
            open(&key, &salt, b"", &sealed[..2 * (CHUNK + TAG)]),
            None,
            "the last chunk is left out"
        );
        let mut exchanged = sealed[CHUNK + TAG..2 * (CHUNK + TAG)].to_vec();
        exchanged.extend_from_slice(&sealed[..CHUNK + TAG]);
        exchanged.extend_from_slice(&sealed[2 * (CHUNK + TAG)..]);
        assert_eq!(open(&key, &salt, b"", &exchanged), None, "chunks are exchanged");
    }

    #[test]
    fn a_wrapped_key_opens_with_its_key_and_under_its_name_only() {
        let (ours, theirs) = (Secret([1; 32]), Secret([2; 32]));
        let data = Secret([3; 32]);
        let wrapped = ours.wrap(&data, "wal-1").expect("wraps");
        assert_eq!(ours.unwrap_key(&wrapped, "wal-1"), Some(data));
        assert_eq!(theirs.unwrap_key(&wrapped, "wal-1"), None);
        assert_eq!(ours.unwrap_key(&wrapped, "wal-2"), None);
    }

    #[test]
    fn a_key_is_64_hexadecimal_digits() {
        assert!(Secret::parse(&format!("{}\n", "0f".repeat(32))).is_some());
        for text in [
            "",
            "0f",
            "xyz",
            &"0f".repeat(33),
            &"0g".repeat(32),
            &"é".repeat(32),
        ] {
            assert_eq!(Secret::parse(text), None, "{text}");
        }
    }
}
