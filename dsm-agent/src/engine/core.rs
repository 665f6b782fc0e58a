//! The engine of one agent: routes events to the deployments' machines.

use std::collections::BTreeMap;
use std::sync::Arc;

use drivers::driver::NodeName;

use super::action::{Action, PLANNER_LOCK};
use super::driver_port::DriverPort;
use super::event::{AbsenceVerdict, Event};
use super::id::DeploymentId;
use super::machine::{Absence, Machine, Timer};
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
            Event::LockGranted {
                deployment,
                lock,
                fence,
            } => {
                let machine = self.machine(&deployment);
                if lock == PLANNER_LOCK {
                    machine.planner = Some(fence);
                    // Another planner may have said something else meanwhile.
                    machine.status = None;
                    machine.outputs = None;
                } else {
                    machine.held.insert(lock, fence);
                }
                vec![Action::Read(deployment)]
            }
            Event::LockDenied { deployment, lock } => {
                self.machine(&deployment).denied.insert(lock);
                vec![Action::Read(deployment)]
            }
            Event::LockLost { deployment, lock } => {
                let machine = self.machine(&deployment);
                if lock == PLANNER_LOCK {
                    machine.planner = None;
                    machine.absence = Absence::None;
                } else {
                    machine.held.remove(&lock);
                }
                vec![Action::Read(deployment)]
            }
            Event::Observed {
                deployment,
                answers,
                result,
            } => {
                let machine = self.machine(&deployment);
                machine.observing = None;
                machine.observed = Some((answers, result));
                vec![Action::Read(deployment)]
            }
            Event::StepEnded {
                deployment,
                generation,
                step,
                attempt,
                end,
                dur_us,
            } => {
                let machine = self.machine(&deployment);
                if let Some(running) = machine.running.get_mut(&(generation, step))
                    && running.attempt == attempt
                {
                    running.end = Some((end, dur_us));
                }
                vec![Action::Read(deployment)]
            }
            Event::StepProgress {
                deployment,
                generation,
                step,
                attempt,
                note,
            } => {
                let machine = self.machine(&deployment);
                if let Some(running) = machine.running.get_mut(&(generation, step))
                    && running.attempt == attempt
                {
                    running.note = Some(note);
                }
                vec![Action::Read(deployment)]
            }
            Event::Timer(key) => {
                let deployment = key.deployment().clone();
                let machine = self.machine(&deployment);
                if matches!(key, super::action::TimerKey::Resumes(_)) {
                    machine.resumes = 0;
                    machine.timers.remove(&key);
                } else if let Some(timer) = machine.timers.get_mut(&key) {
                    *timer = Timer::Over;
                }
                vec![Action::Read(deployment)]
            }
            Event::AbsenceChecked {
                deployment,
                verdict,
            } => {
                self.on_absence(&deployment, verdict);
                vec![Action::Read(deployment)]
            }
            Event::NotPerformed {
                deployment,
                actions,
                ..
            } => {
                self.on_not_performed(&deployment, &actions);
                Vec::new()
            }
            Event::ObserveAll => {
                for machine in self.machines.values_mut() {
                    machine.observe_again = true;
                }
                self.machines.keys().cloned().map(Action::Read).collect()
            }
        }
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
