//! The replicated state: what the cluster has agreed on, the commands that change it, and how they do.
//!
//! Invariants:
//!
//! * **I-1** `epoch` never falls, and rises by one with each accepted [`EpochChange`].
//! * **I-2** an epoch has one holder; a timeline number is reserved for one epoch.
//! * **I-3** `sync` lists every rule under which a commit may have been acknowledged and not yet be covered by a later
//!   one; it is never empty once there was a holder.
//! * **I-4** [`ClusterState::apply`] is total and deterministic: it accepts or rejects, and never panics.

mod apply;
mod command;
mod duties;
mod fencing;
pub mod gate;
mod numbers;
mod orders;
mod restore;
mod risk;
mod rollout;
mod rollout_acts;
mod settings;
mod settings_keys;
mod state;
mod sync_rule;
mod sync_walk;
mod target;
mod voters;

pub use apply::{Applied, Rejected};
pub use command::{Cause, Command, EpochChange, Release};
pub use duties::{Duties, Duty, DutyChange, DutyKind, DutyOrder, DutyOutcome, DutyRecord};
pub(crate) use fencing::own_word;
pub use fencing::{HandFence, StonithMode, StonithProof};
pub use restore::{
    InPlaceRestore, PastRestore, RestoreAct, RestorePhase, RestorePoint, RestoreReached, RestoreTarget,
    RestoredLine, Restores,
};
pub use risk::{FailoverRisk, failover_risk};
pub use rollout::{
    PastRollout, ROLLOUT_BYTES_MAX, ROLLOUT_STEPS_MAX, Rollout, RolloutAct, RolloutLimits, RolloutPhase,
    RolloutPlan, RolloutStep, Rollouts, StepClass, StepIntent, StepReport,
};
pub use settings::{BackupSourceRule, Settings, SettingsError, SyncMode};
pub use settings_keys::{AssignError, SETTING_KEYS, SettingKey, sync_mode_name};
pub use state::{
    ClusterState, EpochRecord, Event, FailoverOrder, Member, MemberKind, Pause, Promotion, Secrets,
    Switchover, SwitchoverOutcome, SwitchoverPhase,
};
pub use sync_rule::SyncRule;
pub use target::{TARGET_MAX_AGE, Unfit, choose_target, fit_for_switchover};
pub use voters::LeaseVoters;
