//! Why the kernel lease cannot be had, or was not renewed.

use nix::errno::Errno;

/// What went wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelLeaseError {
    /// No capability for it.
    #[error(
        "this process may not change the kernel's packet rules; give the agent CAP_NET_ADMIN (its systemd unit does), \
         or set fencing.kernel_lease = \"off\""
    )]
    NotPermitted,
    /// No nf_tables, or a part of it is missing.
    #[error(
        "the kernel lacks a part of nf_tables ({0}); load the modules nf_tables and nft_reject_inet, or set \
         fencing.kernel_lease = \"off\""
    )]
    Unsupported(Errno),
    /// Another process is the owner of the table, and runs.
    #[error(
        "table inet {table} belongs to another process that still runs, perhaps an older agent that hangs; end it, \
         then start again"
    )]
    Taken { table: String },
    /// The table is not as it was left.
    #[error("table inet {table} was removed or changed by somebody else ({cause}); it will be made anew")]
    Disturbed { table: String, cause: Errno },
    /// The deadline is here, or so near that opening is not worth it.
    #[error("too little of the lease is left to let clients in")]
    TooLate,
    /// The call to the kernel took so long that its timer might outlast the lease.
    #[error(
        "the kernel took too long over a renewal, so it was not put in force; look for another program that changes \
         large nftables rule sets, or for a machine that stalls"
    )]
    TooSlow,
    /// Anything else that the kernel answered.
    #[error("the kernel refused a change of table inet {table}: {cause}")]
    Refused { table: String, cause: Errno },
}
