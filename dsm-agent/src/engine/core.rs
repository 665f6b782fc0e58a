//! The engine of one agent: routes events to the deployments' machines.

use std::collections::BTreeMap;
use std::sync::Arc;

use drivers::driver::{NodeName, StepId};

use super::action::{Action, PLANNER_LOCK, TimerKey};
use super::driver_port::DriverPort;
use super::event::{AbsenceVerdict, Event};
use super::id::{DeploymentId, Generation};
use super::machine::{Absence, Machine, Running, Timer};
use super::pass::Pass;
use super::view::{ClusterView, View};

/// See the head of this file.
pub struct Engine {
    node: NodeName,
    drivers: Arc<dyn DriverPort>,
    cluster: ClusterView,
    machines: BTreeMap<DeploymentId, Machine>,
}

impl Engine {
    /// The engine of `node` at its start: it knows nothing.
    pub fn new(node: NodeName, drivers: Arc<dyn DriverPort>) -> Self {
        Self {
            node,
            drivers,
            cluster: ClusterView::default(),
            machines: BTreeMap::new(),
        }
    }

    /// Takes one event and says what to do about it.
    pub fn on_event(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Cluster(cluster) => self.on_cluster(cluster),
            Event::View(view) => self.on_view(&view),
            Event::ObserveAll => {
                for machine in self.machines.values_mut() {
                    machine.observe_again = true;
                }
                self.machines.keys().cloned().map(Action::Read).collect()
            }
            Event::NotPerformed {
                deployment,
                actions,
                ..
            } => {
                self.on_not_performed(&deployment, &actions);
                Vec::new()
            }
            other => {
                let deployment = deployment_of(&other).cloned();
                self.remember(other);
                deployment.map(Action::Read).into_iter().collect()
            }
        }
    }

    /// Keeps what happened for the next pass over its deployment.
    fn remember(&mut self, event: Event) {
        match event {
            Event::LockGranted {
                deployment,
                lock,
                fence,
            } => self.on_lock_granted(&deployment, lock, fence),
            Event::LockDenied { deployment, lock } => {
                self.machine(&deployment).denied.insert(lock);
            }
            Event::LockLost { deployment, lock } => self.on_lock_lost(&deployment, &lock),
            Event::Observed {
                deployment,
                answers,
                result,
            } => {
                let machine = self.machine(&deployment);
                machine.observing = None;
                machine.observed = Some((answers, result));
            }
            Event::StepEnded {
                deployment,
                generation,
                step,
                attempt,
                end,
                dur_us,
            } => {
                if let Some(running) = self.running(&deployment, generation, step, attempt) {
                    running.end = Some((end, dur_us));
                }
            }
            Event::StepProgress {
                deployment,
                generation,
                step,
                attempt,
                note,
            } => {
                if let Some(running) = self.running(&deployment, generation, step, attempt) {
                    running.note = Some(note);
                }
            }
            Event::Timer(key) => self.on_timer(key),
            Event::AbsenceChecked {
                deployment,
                verdict,
            } => self.on_absence(&deployment, verdict),
            Event::Cluster(_) | Event::View(_) | Event::NotPerformed { .. } | Event::ObserveAll => {
            }
        }
    }

    fn on_lock_granted(&mut self, deployment: &DeploymentId, lock: String, fence: u64) {
        let machine = self.machine(deployment);
        if lock != PLANNER_LOCK {
            machine.held.insert(lock, fence);
            return;
        }
        machine.planner = Some(fence);
        // Another planner may have said something else meanwhile.
        machine.status = None;
        machine.outputs = None;
    }

    fn on_lock_lost(&mut self, deployment: &DeploymentId, lock: &str) {
        let machine = self.machine(deployment);
        if lock == PLANNER_LOCK {
            machine.planner = None;
            machine.absence = Absence::None;
        } else {
            machine.held.remove(lock);
        }
    }

    fn on_timer(&mut self, key: TimerKey) {
        let machine = self.machine(&key.deployment().clone());
        if matches!(key, TimerKey::Resumes(_)) {
            machine.resumes = 0;
            machine.timers.remove(&key);
        } else if let Some(timer) = machine.timers.get_mut(&key) {
            *timer = Timer::Over;
        }
    }

    /// The step that this agent runs, if it is that attempt.
    fn running(
        &mut self,
        deployment: &DeploymentId,
        generation: Generation,
        step: StepId,
        attempt: u32,
    ) -> Option<&mut Running> {
        let running = self
            .machine(deployment)
            .running
            .get_mut(&(generation, step))?;
        (running.attempt == attempt).then_some(running)
    }

    fn machine(&mut self, deployment: &DeploymentId) -> &mut Machine {
        self.machines.entry(deployment.clone()).or_default()
    }

    fn on_cluster(&mut self, cluster: ClusterView) -> Vec<Action> {
        if self.cluster == cluster {
            return Vec::new();
        }
        let presence_changed = self.cluster.presence != cluster.presence;
        self.cluster = cluster;
        if presence_changed {
            return self.on_event(Event::ObserveAll);
        }
        self.machines.keys().cloned().map(Action::Read).collect()
    }

    fn on_view(&mut self, view: &View) -> Vec<Action> {
        let machine = self.machines.entry(view.id.clone()).or_default();
        Pass::new(
            &self.node,
            self.drivers.as_ref(),
            &self.cluster,
            view,
            machine,
        )
        .decide()
    }

    fn on_absence(&mut self, deployment: &DeploymentId, verdict: AbsenceVerdict) {
        let machine = self.machine(deployment);
        machine.absence = match (&machine.absence, verdict) {
            (_, AbsenceVerdict::Present) => Absence::None,
            (Absence::Checking, AbsenceVerdict::Absent { .. }) => Absence::Counting(String::new()),
            (Absence::CheckingAgain, AbsenceVerdict::Absent { missing, total }) => {
                if is_mass_removal(missing.len(), total) {
                    Absence::HeldBack(AbsenceVerdict::Absent { missing, total })
                } else {
                    Absence::Confirmed
                }
            }
            (_, verdict @ AbsenceVerdict::Unsafe(_)) => Absence::HeldBack(verdict),
            (before, _) => before.clone(),
        };
    }

    /// Takes back what was remembered as under way although it never began.
    fn on_not_performed(&mut self, deployment: &DeploymentId, actions: &[Action]) {
        let machine = self.machine(deployment);
        for action in actions {
            match action {
                Action::StartStep(start) => {
                    machine
                        .running
                        .remove(&(start.generation, start.step.id.clone()));
                }
                Action::Observe { .. } => machine.observing = None,
                Action::WriteStatus(_) => machine.status = None,
                Action::WriteOutputs { .. } => machine.outputs = None,
                Action::CheckAbsence(_) => machine.absence = Absence::None,
                Action::SetTimer { key, .. } => {
                    machine.timers.remove(key);
                }
                Action::WriteGeneration { .. } => {
                    machine.resumes = machine.resumes.saturating_sub(1);
                }
                _ => {}
            }
        }
    }
}

/// Whose event it is, where it is one deployment's.
fn deployment_of(event: &Event) -> Option<&DeploymentId> {
    match event {
        Event::LockGranted { deployment, .. }
        | Event::LockDenied { deployment, .. }
        | Event::LockLost { deployment, .. }
        | Event::Observed { deployment, .. }
        | Event::StepEnded { deployment, .. }
        | Event::StepProgress { deployment, .. }
        | Event::AbsenceChecked { deployment, .. }
        | Event::NotPerformed { deployment, .. } => Some(deployment),
        Event::Timer(key) => Some(key.deployment()),
        Event::View(view) => Some(&view.id),
        Event::Cluster(_) | Event::ObserveAll => None,
    }
}

/// More than one, and more than a fifth of all: that is no deletion by hand.
pub fn is_mass_removal(missing: usize, total: usize) -> bool {
    missing > 1 && missing * 100 > total * crate::limits::REMOVE_SHARE_PERCENT_MAX
}

#[cfg(test)]
mod tests {
    use super::is_mass_removal;

    #[test]
    fn one_absent_wish_is_a_deletion_and_a_third_of_them_is_not() {
        assert!(!is_mass_removal(1, 1));
        assert!(is_mass_removal(2, 2));
        assert!(!is_mass_removal(2, 10));
        assert!(is_mass_removal(3, 10));
        assert!(!is_mass_removal(20, 100));
        assert!(is_mass_removal(21, 100));
    }
}
