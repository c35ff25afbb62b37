//! What the nodes tell each other about themselves.

use crate::event::Msg;
use crate::mutants::Mutant;
use crate::raft::id;
use crate::world::World;
use agent_core::view::{HolderReport, NodeReport};
use std::time::Duration;

impl World {
    /// Tells everybody how this node is.
    pub fn report(&mut self, node: usize) {
        let report = self.build_report(node);
        self.broadcast(node, &Msg::Report(Box::new(report)));
    }

    fn build_report(&self, node: usize) -> NodeReport {
        let it = &self.nodes[node];
        let agent = it.agent.as_ref().expect("only a living agent reports");
        let state = self.state(node);
        let reading = self.reading(node);
        let is_holder = state.holder == Some(id(node));
        let holder = is_holder.then(|| HolderReport {
            epoch: state.epoch,
            left: agent
                .holder
                .as_ref()
                .filter(|holder| holder.epoch() == state.epoch && holder.valid(reading))
                .and_then(|holder| holder.deadline())
                .map_or(Duration::ZERO, |deadline| reading.until_any(deadline)),
            gate_open: agent.memory.gate == Some(state.epoch),
            fenced: agent.receipt.filter(|receipt| receipt.epoch == state.epoch),
        });
        let data = it.kind == agent_core::cluster::MemberKind::Data;
        NodeReport {
            node: id(node),
            incarnation: it.life,
            pg: data.then(|| self.observe(node)),
            voter: agent.voter.report(state.epoch.next(), reading),
            holder,
            pledge: if self.mutant == Some(Mutant::ReleaseNotDurable) {
                agent.voter.pledge()
            } else {
                it.disk.pledge
            },
            applied: agent.applied as u64,
            prepared_for: agent.memory.checkpoint_for.clone(),
            explain: Vec::new(),
            agent_version: String::new(),
            watchdog: None,
            fencing: None,
            archive: None,
        }
    }

    pub fn on_report(&mut self, node: usize, report: NodeReport) {
        let now = self.nodes[node].clock.mono(self.now);
        if let Some(receipt) = report.holder.and_then(|holder| holder.fenced) {
            let known = self.agent(node).coordinator.receipt == Some(receipt);
            if !known {
                self.on_receipt(node, receipt);
            }
        }
        let state = self.state(node);
        let from_holder = state.holder == Some(report.node);
        self.agent(node)
            .reports
            .reports
            .insert(report.node, (now, report));
        if from_holder {
            self.look_soon(node);
        } else {
            self.coordinate_soon(node);
        }
    }
}
