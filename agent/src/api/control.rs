//! `pgctl`'s gRPC service.

use crate::ports::{Consensus, Overview};
use std::sync::Arc;

/// Answers `pgctl`, on any node.
pub struct ControlService {
    consensus: Arc<dyn Consensus>,
    overview: Arc<dyn Overview>,
}

impl ControlService {
    /// A service that reads from and writes to these.
    #[must_use]
    pub fn new(consensus: Arc<dyn Consensus>, overview: Arc<dyn Overview>) -> ControlService {
        ControlService { consensus, overview }
    }
}
