//! A restore into scratch space, to see that it can be done.

use super::Archive;
use std::sync::Arc;

/// Restores the newest backup, recovers it, and throws it away; says what was reached.
pub(super) async fn newest(_archive: &Arc<Archive>, _id: &str) -> Result<String, String> {
    Err("not yet".to_owned())
}
