//! Whether a majority can be reached, as far as this node knows, and since when.
//!
//! Invariant: what is published changes only when the answer changes, so a waiter wakes once. Not here: electing a
//! leader; this only watches.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::clock;
use crate::limits::{CONTACT_FRESH_MAX, CONTACT_WAIT_MAX, QUORUM_SILENCE_MAX};
use crate::state_machine::log_time::WallTime;

/// What this node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumState {
    /// Whether a majority answers.
    pub has: bool,
    /// Since when it does or does not.
    pub since: WallTime,
    /// Voters that do not answer, by id.
    pub missing: Vec<u64>,
    /// Why there is no quorum; empty when there is one.
    pub why: String,
}

/// The last sign of life of a leader.
#[derive(Debug, Clone, Copy)]
struct Contact {
    at: Instant,
    quorum: bool,
}

/// Watches the quorum.
#[derive(Debug)]
pub struct QuorumWatch {
    state: watch::Sender<QuorumState>,
    // Leaf lock.
    contact: Mutex<Option<Contact>>,
    // Leaf lock. When a majority was last known to be in contact.
    confirmed: Mutex<Option<Instant>>,
    contacted: Notify,
    // Leaf lock. Why nobody may write although a majority answers.
    disagreement: Mutex<Option<String>>,
    // Leaf lock. What the leader said last of who is missing.
    reported_missing: Mutex<Vec<u64>>,
}

impl Default for QuorumWatch {
    fn default() -> Self {
        let state = QuorumState {
            has: false,
            since: clock::wall(),
            missing: Vec::new(),
            why: "this node has just started and has not heard of a leader yet".into(),
        };
        Self {
            state: watch::Sender::new(state),
            contact: Mutex::default(),
            confirmed: Mutex::default(),
            contacted: Notify::new(),
            disagreement: Mutex::default(),
            reported_missing: Mutex::default(),
        }
    }
}

impl QuorumWatch {
    /// What is known now.
    pub fn state(&self) -> QuorumState {
        self.state.borrow().clone()
    }

    /// Whether there is a quorum, for the hot path.
    pub fn has(&self) -> bool {
        self.state.borrow().has
    }

    /// Changes of it.
    pub fn subscribe(&self) -> watch::Receiver<QuorumState> {
        self.state.subscribe()
    }

    /// A leader that this node accepts gave a sign of life; `quorum` is what it said of itself.
    pub fn leader_heard(&self, quorum: bool) {
        *self.contact.lock() = Some(Contact {
            at: Instant::now(),
            quorum,
        });
        if quorum {
            self.confirmed_at(Instant::now());
        }
        if quorum && !self.has() {
            self.publish(true, Vec::new(), String::new());
        }
    }

    /// For how long the leader has given no sign of life, if one was ever heard.
    pub fn silence(&self) -> Option<Duration> {
        self.contact.lock().map(|contact| contact.at.elapsed())
    }

    /// A majority was in contact at `at`, as this node learned from a leader or as leader.
    pub fn confirmed_at(&self, at: Instant) {
        let mut confirmed = self.confirmed.lock();
        *confirmed = (*confirmed).max(Some(at));
        drop(confirmed);
        // A leader hears no leader: what counts for it, when it has handed over, is that a majority answered it.
        let mut contact = self.contact.lock();
        if contact.is_none_or(|contact| contact.at < at) {
            *contact = Some(Contact { at, quorum: true });
        }
        drop(contact);
        self.contacted.notify_waiters();
    }

    /// Whether a majority was in contact a moment ago.
    pub fn is_in_contact(&self) -> bool {
        let confirmed = *self.confirmed.lock();
        confirmed.is_some_and(|at| at.elapsed() <= CONTACT_FRESH_MAX)
    }

    /// Waits for the next contact with a majority.
    ///
    /// # Errors
    /// After [`CONTACT_WAIT_MAX`], why there is none, as far as known.
    pub async fn wait_for_contact(&self) -> Result<(), String> {
        let contact = async {
            loop {
                let contacted = self.contacted.notified();
                if self.is_in_contact() {
                    return;
                }
                contacted.await;
            }
        };
        let waited = tokio::time::timeout(CONTACT_WAIT_MAX, contact).await;
        waited.map_err(|_| match self.state().why {
            why if why.is_empty() => "no majority was heard of for a moment".into(),
            why => why,
        })
    }

    /// The leader said who is missing.
    pub fn missing_reported(&self, missing: Vec<u64>) {
        *self.reported_missing.lock() = missing;
    }

    /// What the leader said last of who is missing.
    pub fn reported_missing(&self) -> Vec<u64> {
        self.reported_missing.lock().clone()
    }

    /// Whether a leader with a quorum was heard of late; otherwise why not.
    ///
    /// # Errors
    /// The reason in words.
    pub fn check_contact(&self) -> Result<(), String> {
        match *self.contact.lock() {
            Some(contact) if contact.at.elapsed() > QUORUM_SILENCE_MAX => {
                let silence = contact.at.elapsed().as_secs_f32();
                Err(format!("no leader was heard for {silence:.1} s"))
            }
            Some(contact) if !contact.quorum => {
                Err("the leader does not hear from a majority".into())
            }
            Some(_) => Ok(()),
            None => Err("no leader was heard since this node started".into()),
        }
    }

    /// The members' states differ and none has a majority, or no longer: nobody writes meanwhile.
    pub fn disagree(&self, why: Option<String>) {
        let is_news = std::mem::replace(&mut *self.disagreement.lock(), why.clone()) != why;
        if let Some(why) = why.filter(|_| is_news) {
            tracing::error!("{why}");
            self.publish(false, Vec::new(), why);
        }
    }

    /// Publishes what is known now.
    pub fn publish(&self, has: bool, missing: Vec<u64>, why: String) {
        let disagreement = self.disagreement.lock().clone();
        let (has, why) = disagreement.map_or((has, why), |disagreement| (false, disagreement));
        self.state.send_if_modified(|state| {
            let turned = state.has != has;
            if turned {
                state.since = clock::wall();
            }
            let changed = turned || state.missing != missing;
            state.has = has;
            state.missing = missing;
            state.why = why;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    /// How long a wait for contact takes, and what comes of it.
    async fn waited(watch: &QuorumWatch) -> (Duration, Result<(), String>) {
        let begun = Instant::now();
        let contact = watch.wait_for_contact().await;
        (begun.elapsed(), contact)
    }

    #[tokio::test(start_paused = true)]
    async fn contact_is_fresh_for_its_time_and_waited_for_a_second() {
        let watch = QuorumWatch::default();
        let in_vain = CONTACT_WAIT_MAX..=CONTACT_WAIT_MAX + MOMENT;
        let (took, refused) = waited(&watch).await;
        assert!(in_vain.contains(&took), "{took:?}");
        assert!(refused.unwrap_err().contains("has just started"));
        watch.leader_heard(true);
        assert_eq!(waited(&watch).await, (Duration::ZERO, Ok(())));
        tokio::time::advance(CONTACT_FRESH_MAX).await;
        assert!(watch.is_in_contact());
        tokio::time::advance(MOMENT).await;
        assert!(!watch.is_in_contact());
        // A leader without a majority is none.
        watch.leader_heard(false);
        let (took, refused) = waited(&watch).await;
        assert!(in_vain.contains(&took), "{took:?}");
        assert!(refused.unwrap_err().contains("no majority was heard of"));
        let late = async {
            tokio::time::advance(CONTACT_WAIT_MAX / 2).await;
            watch.leader_heard(true);
        };
        let ((took, contact), ()) = tokio::join!(waited(&watch), late);
        assert_eq!(contact, Ok(()));
        assert!(took < CONTACT_WAIT_MAX / 2 + 2 * MOMENT, "{took:?}");
    }

    #[test]
    fn a_leader_without_majority_is_no_quorum() {
        let watch = QuorumWatch::default();
        assert!(watch.check_contact().is_err());
        watch.leader_heard(true);
        assert!(watch.has());
        watch.leader_heard(false);
        assert!(watch.check_contact().is_err());
    }

    /// Its callers' saves go on at the next leader.
    #[test]
    fn a_leader_that_has_handed_over_still_has_the_contact_that_it_had() {
        let watch = QuorumWatch::default();
        watch.confirmed_at(Instant::now());
        assert_eq!(watch.check_contact(), Ok(()));
    }

    #[test]
    fn since_changes_only_when_the_answer_turns() {
        let watch = QuorumWatch::default();
        watch.publish(true, vec![], String::new());
        let since = watch.state().since;
        watch.publish(true, vec![3], String::new());
        assert_eq!(watch.state().since, since);
        assert_eq!(watch.state().missing, [3]);
    }
}
