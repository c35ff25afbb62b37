//! From bytes to single statements, each with the line it begins on.

mod decode;
mod split;

pub use decode::{BYTES_MAX, Unreadable, decode};
pub use split::{Comment, Piece, PieceKind, split};
