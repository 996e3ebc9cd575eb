//! The life of a machine, and what may be asked of it when.
//!
//! ```text
//!             create                    start                 ready
//!   (nothing) ──────▶ creating ─▶ created ────▶ starting ─────────────▶ started
//!                        │                        │  ▲                   │ │ │
//!                        │ fails           fails  │  │ start / restart   │ │ │ update: replacing ─▶ starting
//!                        ▼                        ▼  │            stop   │ │ └─────────▶ …
//!                      failed ◀────────────────────  stopped ◀─ stopping ◀┘ │ exits: restarting ─▶ starting
//!                        │                             │  ▲                 │        or stopped
//!                        └──────────┬──────────────────┘  └─────────────────┘
//!                                   ▼ destroy (from any state)
//!                               destroying ─▶ destroyed
//!
//!               suspend                     start
//!   started ──────────────▶ suspending ─▶ suspended ─▶ starting ─▶ started, with the memory it had
//!                               │ cannot be                │ stop: its memory is thrown away
//!                               ▼                          ▼
//!                            stopping ─▶ stopped        stopped
//! ```
//!
//! `created`, `started`, `stopped`, `suspended` and `failed` rest; the others pass by themselves and a node that
//! restarts in one of them goes on where it stopped.

use serde::{Deserialize, Serialize};

/// What a machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    /// Its disks and addresses are being made.
    Creating,
    /// Complete, never started.
    Created,
    /// The virtual machine boots.
    Starting,
    /// Its program runs.
    Started,
    /// Its program ended by itself and is about to be started again.
    Restarting,
    /// Its program has been asked to end.
    Stopping,
    /// Its program has ended.
    Stopped,
    /// Its memory is being written to the disk.
    Suspending,
    /// Nothing of it runs; its memory lies on the disk, and a start goes on with it.
    Suspended,
    /// It is changing to another version of its configuration.
    Replacing,
    /// It could not be made or started; the reason is told beside it.
    Failed,
    /// Everything of it is being removed.
    Destroying,
    /// It is gone.
    Destroyed,
}

/// What may be asked of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Boot it.
    Start,
    /// End its program and its virtual machine.
    Stop,
    /// End its virtual machine and keep its memory.
    Suspend,
    /// Stop, then start.
    Restart,
    /// Give it another version of its configuration.
    Update,
    /// Send its program a signal.
    Signal,
    /// Run a command inside.
    Exec,
    /// Remove everything of it.
    Destroy {
        /// Even while its program runs.
        force: bool,
    },
    /// Give it traffic, or no more.
    Cordon,
}

/// Whether an action may happen now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Accept,
    /// It is so already: succeed and do nothing.
    Ignore,
    /// No, and why, with what to do instead.
    Deny(&'static str),
}

impl MachineState {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 13] = [
        Self::Creating,
        Self::Created,
        Self::Starting,
        Self::Started,
        Self::Restarting,
        Self::Stopping,
        Self::Stopped,
        Self::Suspending,
        Self::Suspended,
        Self::Replacing,
        Self::Failed,
        Self::Destroying,
        Self::Destroyed,
    ];

    /// Whether the machine stays in this state until something is asked of it or happens to it.
    pub fn rests(self) -> bool {
        matches!(self, Self::Created | Self::Started | Self::Stopped | Self::Suspended | Self::Failed | Self::Destroyed)
    }

    /// Whether a virtual machine may exist in this state.
    pub fn may_run(self) -> bool {
        !matches!(self, Self::Creating | Self::Created | Self::Stopped | Self::Suspended | Self::Destroyed)
    }

    /// Whether `action` may happen in this state. The node finishes or abandons a passing state before it
    /// begins an accepted action, so an answer holds for the moment at which the action begins.
    pub fn may(self, action: Action) -> Verdict {
        use Action as A;
        use MachineState as S;
        use Verdict::{Accept, Deny, Ignore};
        match (self, action) {
            (S::Destroyed | S::Destroying, A::Destroy { .. }) => Ignore,
            (S::Destroyed, _) => Deny("the machine is destroyed; create another"),
            (S::Destroying, _) => Deny("the machine is being destroyed; create another"),

            (S::Created | S::Stopped | S::Suspended | S::Failed, A::Destroy { .. }) => Accept,
            (_, A::Destroy { force: true }) => Accept,
            (_, A::Destroy { force: false }) => {
                Deny("the machine is still running; stop it first, or destroy it with force")
            }

            (S::Started | S::Starting | S::Restarting, A::Start) => Ignore,
            (S::Created | S::Stopped | S::Suspended | S::Failed, A::Start) => Accept,
            (S::Creating | S::Replacing | S::Stopping | S::Suspending, A::Start) => Accept,

            (S::Stopped | S::Created | S::Failed, A::Stop) => Ignore,
            (_, A::Stop) => Accept,

            (S::Started, A::Suspend) => Accept,
            (S::Suspending | S::Suspended, A::Suspend) => Ignore,
            (_, A::Suspend) => Deny("only a started machine can be suspended; start it first"),

            (S::Creating, A::Restart) => Deny("the machine is still being created; wait for it"),
            (_, A::Restart) => Accept,

            (_, A::Update | A::Cordon) => Accept,

            (S::Started, A::Signal | A::Exec) => Accept,
            (_, A::Signal | A::Exec) => Deny("the machine is not started; start it first"),
        }
    }
}

impl std::fmt::Display for MachineState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Started => "started",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Suspending => "suspending",
            Self::Suspended => "suspended",
            Self::Replacing => "replacing",
            Self::Failed => "failed",
            Self::Destroying => "destroying",
            Self::Destroyed => "destroyed",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_state() -> impl Strategy<Value = MachineState> {
        prop::sample::select(MachineState::ALL.to_vec())
    }

    fn any_action() -> impl Strategy<Value = Action> {
        prop_oneof![
            Just(Action::Start),
            Just(Action::Stop),
            Just(Action::Suspend),
            Just(Action::Restart),
            Just(Action::Update),
            Just(Action::Signal),
            Just(Action::Exec),
            Just(Action::Cordon),
            any::<bool>().prop_map(|force| Action::Destroy { force }),
        ]
    }

    proptest! {
        #[test]
        fn force_destroys_anything_that_still_exists(state in any_state()) {
            let verdict = state.may(Action::Destroy { force: true });
            let gone = matches!(state, MachineState::Destroying | MachineState::Destroyed);
            prop_assert_eq!(verdict, if gone { Verdict::Ignore } else { Verdict::Accept });
        }

        #[test]
        fn nothing_but_destroy_is_allowed_on_the_way_out(action in any_action()) {
            for state in [MachineState::Destroying, MachineState::Destroyed] {
                let verdict = state.may(action);
                let destroy = matches!(action, Action::Destroy { .. });
                prop_assert_eq!(matches!(verdict, Verdict::Deny(_)), !destroy);
            }
        }

        #[test]
        fn a_denial_says_what_to_do(state in any_state(), action in any_action()) {
            if let Verdict::Deny(reason) = state.may(action) {
                prop_assert!(reason.contains(';'), "{}", reason);
            }
        }

        #[test]
        fn without_force_a_running_machine_is_never_destroyed(state in any_state()) {
            if state.may(Action::Destroy { force: false }) == Verdict::Accept {
                prop_assert!(!state.may_run() || state == MachineState::Failed);
            }
        }
    }
}
