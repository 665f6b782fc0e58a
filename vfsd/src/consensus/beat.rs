//! One clock for all that a member looks at now and then.
//!
//! What an idle member costs is its wake-ups. Looks that have a timer each wake it a dozen times in a tenth of a
//! second; those that share one wake it once. Not here: what is urgent, which wakes its task by itself.

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::limits::BEAT;

/// See the module.
#[derive(Debug)]
pub struct Beat(watch::Sender<u64>);

impl Default for Beat {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Beat {
    /// Beats until it is dropped.
    pub async fn run(&self) {
        let mut tick = interval(BEAT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.0.send_modify(|beat| *beat += 1);
        }
    }

    /// Every `n`th beat from here on.
    pub fn every(&self, n: u64) -> Beats {
        let beats = self.0.subscribe();
        let every = n.max(1);
        let due = *beats.borrow() / every * every + every;
        Beats { beats, every, due }
    }
}

/// Beats to wait for.
#[derive(Debug)]
pub struct Beats {
    beats: watch::Receiver<u64>,
    every: u64,
    due: u64,
}

impl Beats {
    /// Waits for the next one that is due; those that have passed meanwhile count as one. Cancel safe.
    pub async fn next(&mut self) {
        let due = self.due;
        let Ok(beat) = self
            .beats
            .wait_for(|&beat| beat >= due)
            .await
            .map(|beat| *beat)
        else {
            // The member is being taken apart, and this task with it.
            return std::future::pending().await;
        };
        self.due = beat / self.every * self.every + self.every;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_second_beat_is_told_also_to_whoever_waits_for_each() {
        let beat = std::sync::Arc::new(Beat::default());
        let (mut each, mut second) = (beat.every(1), beat.every(2));
        let (mut eaches, mut seconds) = (0, 0);
        let running = tokio::spawn({
            let beat = std::sync::Arc::clone(&beat);
            async move { beat.run().await }
        });
        while eaches + seconds < 300 {
            // Both are due at once, and the one that is not taken is given up.
            tokio::select! {
                () = each.next() => eaches += 1,
                () = second.next() => seconds += 1,
            }
        }
        assert_eq!((eaches, seconds), (200, 100));
        running.abort();
    }
}
