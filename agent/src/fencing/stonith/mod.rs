//! Turning another node's machine off (STONITH), through the devices of this node's configuration.
//!
//! *Invariant:* a proof is given only after the device itself has said that the machine is off, in answer to a question
//! that was asked after the order.

mod excerpt;
mod http;
#[cfg(test)]
mod noise_tests;
mod program;
#[cfg(test)]
mod tests;

use crate::config::{FenceDevice, FenceMethod};
use std::time::{Duration, Instant};

/// The pause between two questions whether the machine is off yet.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What a device says of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    On,
    Off,
}

/// What one use of a device came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `None` where the order itself was asked for, and not the state.
    pub power: Option<Power>,
    /// The program's exit code; `None` for HTTP.
    pub exit_code: Option<i32>,
    /// The end of what it said, without secrets.
    pub output: String,
}

/// Why a device was of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No device of this node's configuration turns that node off.
    #[error("fencing.devices of this node names no device for {0}: add one, the same on every node")]
    NoDevice(String),
    /// The program could not be started.
    #[error("{program} could not be started: {detail}")]
    NotStarted { program: String, detail: String },
    /// It did not end, or the machine was not off, within the deadline.
    #[error("{device}: {doing} did not come to an end within {} s", deadline.as_secs_f32())]
    TooLate {
        device: String,
        doing: &'static str,
        deadline: Duration,
    },
    /// It ended badly.
    #[error("{device}: {doing} failed with {how}{}", excerpt::quoted(output))]
    Failed {
        device: String,
        doing: &'static str,
        how: String,
        output: String,
    },
    /// The order was taken, and the machine stays on.
    #[error("{device}: the order to turn off was taken, but {} s later the device says that the machine is on", after.as_secs_f32())]
    StaysOn { device: String, after: Duration },
}

/// The proof that a machine is off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Off {
    /// What was used, without secrets.
    pub device: String,
    pub exit_code: Option<i32>,
    pub output: String,
}

/// The devices of this node's configuration.
#[derive(Debug, Default)]
pub struct Stonith {
    devices: Vec<FenceDevice>,
}

impl Stonith {
    /// With these devices, in this order.
    #[must_use]
    pub fn new(devices: Vec<FenceDevice>) -> Stonith {
        Stonith { devices }
    }

    /// Asks the first device of `node` that answers whether the machine is on. Changes nothing.
    ///
    /// # Errors
    /// There is no device, or none gave an answer; the error is the last one's.
    pub async fn status(&self, node: &str, deadline: Duration) -> Result<(Power, Off), DeviceError> {
        let mut last = DeviceError::NoDevice(node.to_owned());
        for device in self.of(node) {
            match device.ask(deadline).await {
                Ok((power, answer)) => return Ok((power, device.proof(answer))),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Turns the machine of `node` off, and comes back with the device's word that it is. To do so again does no harm.
    ///
    /// # Errors
    /// There is no device, or with none of them the machine was proven to be off within `deadline` each.
    pub async fn turn_off(&self, node: &str, deadline: Duration) -> Result<Off, DeviceError> {
        let mut last = DeviceError::NoDevice(node.to_owned());
        for device in self.of(node) {
            tokio::time::sleep(device.delay).await;
            match device.turn_off(deadline).await {
                Ok(off) => return Ok(off),
                Err(error) => {
                    tracing::warn!(node, %error, "a fence device did not turn the machine off");
                    last = error;
                }
            }
        }
        Err(last)
    }

    fn of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a FenceDevice> {
        self.devices.iter().filter(move |device| device.node == node)
    }
}

impl FenceDevice {
    async fn turn_off(&self, deadline: Duration) -> Result<Off, DeviceError> {
        let begun = Instant::now();
        self.order(deadline).await?;
        loop {
            let left = deadline.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let (device, after) = (self.shown(), deadline);
                return Err(DeviceError::StaysOn { device, after });
            }
            let (power, answer) = self.ask(left).await?;
            if power == Power::Off {
                return Ok(self.proof(answer));
            }
            tokio::time::sleep(ASK_AGAIN.min(left)).await;
        }
    }

    async fn order(&self, deadline: Duration) -> Result<Answer, DeviceError> {
        match &self.method {
            FenceMethod::Agent { .. } | FenceMethod::Command { .. } => program::order(self, deadline).await,
            FenceMethod::Http(call) => http::order(call, deadline).await,
        }
    }

    async fn ask(&self, deadline: Duration) -> Result<(Power, Answer), DeviceError> {
        match &self.method {
            FenceMethod::Agent { .. } | FenceMethod::Command { .. } => program::ask(self, deadline).await,
            FenceMethod::Http(call) => http::ask(call, deadline).await,
        }
    }

    /// The device as people are told of it.
    fn shown(&self) -> String {
        match &self.method {
            FenceMethod::Agent { program, .. } | FenceMethod::Command { program, .. } => {
                program.display().to_string()
            }
            FenceMethod::Http(call) => call.url.clone(),
        }
    }

    fn proof(&self, answer: Answer) -> Off {
        Off {
            device: self.shown(),
            exit_code: answer.exit_code,
            output: answer.output,
        }
    }
}
