//! Whether there is a kernel lease on this node, by its configuration and by what the machine permits.

use super::error::KernelLeaseError;
use super::gate::{Clock, Gate};
use super::keeper::KernelLease;
use super::place::Place;
use crate::config::FencePolicy;
use agent_core::time::ClockReading;
use agent_core::view::{FenceLayer, FenceLayerState};

/// Why an agent that must have a kernel lease cannot start.
#[derive(Debug, thiserror::Error)]
pub enum KernelLeaseStartError {
    #[error("there is no kernel lease: {0}")]
    Gate(#[from] KernelLeaseError),
    /// The operating system gave no thread.
    #[error("could not start the thread of the kernel lease: {0}; raise the limit on threads")]
    Thread(std::io::Error),
}

/// What this node has.
#[derive(Clone, Default)]
pub enum KernelLeasing {
    /// Clients are let through by the kernel only while the lease lasts.
    On(KernelLease),
    /// Not wanted.
    #[default]
    Off,
    /// Wanted if possible, and not possible. A frozen agent's server then goes on answering.
    Missing(KernelLeaseError),
}

impl KernelLeasing {
    /// Sets up what the policy asks for. Where that is nothing, what an earlier process has left in the kernel is removed.
    ///
    /// `read` reads the clocks of the lease.
    ///
    /// # Errors
    /// With [`FencePolicy::Required`], whatever stands in its way. With [`FencePolicy::Automatic`] only that
    /// another process holds this node's table, or that there is no thread to be had.
    pub fn start(
        policy: FencePolicy,
        place: Place,
        read: fn() -> ClockReading,
    ) -> Result<KernelLeasing, KernelLeaseStartError> {
        let gate = match policy {
            FencePolicy::Off => {
                remove_leftover(place, Box::new(read))?;
                return Ok(KernelLeasing::Off);
            }
            FencePolicy::Automatic | FencePolicy::Required => {
                probe(&place, Box::new(read)).and_then(|()| Gate::attach(place, Box::new(read)))
            }
        };
        match gate {
            Ok(gate) => KernelLease::start(gate)
                .map(KernelLeasing::On)
                .map_err(KernelLeaseStartError::Thread),
            Err(error @ (KernelLeaseError::NotPermitted | KernelLeaseError::Unsupported(_)))
                if policy == FencePolicy::Automatic =>
            {
                tracing::warn!(%error, "no kernel lease: if the agent is frozen, its server goes on answering");
                Ok(KernelLeasing::Missing(error))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The handle, where there is a kernel lease.
    #[must_use]
    pub fn handle(&self) -> Option<&KernelLease> {
        match self {
            KernelLeasing::On(lease) => Some(lease),
            KernelLeasing::Off | KernelLeasing::Missing(_) => None,
        }
    }
}

impl KernelLeasing {
    /// As `pgctl status` shows it.
    #[must_use]
    pub fn report(&self) -> FenceLayer {
        let (state, detail) = match self {
            KernelLeasing::On(lease) => {
                let standing = lease.standing();
                match standing.trouble {
                    Some(trouble) => (FenceLayerState::Missing, trouble.to_string()),
                    None if standing.protected => (FenceLayerState::On, String::new()),
                    None => (
                        FenceLayerState::On,
                        "other programs can remove it: the kernel is older than 6.9".to_owned(),
                    ),
                }
            }
            KernelLeasing::Off => (FenceLayerState::Off, String::new()),
            KernelLeasing::Missing(error) => (FenceLayerState::Missing, error.to_string()),
        };
        FenceLayer { state, detail }
    }
}

/// Says whether a kernel lease can be had here, by making one beside that of `place`, with its timer, and removing it. It
/// is never armed, so no packet is touched.
///
/// # Errors
/// [`KernelLeaseError::NotPermitted`] or [`KernelLeaseError::Unsupported`].
pub fn probe(place: &Place, clock: Clock) -> Result<(), KernelLeaseError> {
    let mut gate = Gate::attach(place.beside(), clock)?;
    let tried = gate.try_timer();
    gate.remove()?;
    tried
}

fn remove_leftover(place: Place, clock: Clock) -> Result<(), KernelLeaseError> {
    match Gate::find(place, clock) {
        Ok(Some(gate)) => {
            tracing::info!("removing the table of a kernel lease that is no longer wanted");
            gate.remove()
        }
        // Where no rules can be made, none were left.
        Ok(None) | Err(KernelLeaseError::NotPermitted | KernelLeaseError::Unsupported(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
