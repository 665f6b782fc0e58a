//! Connections whose peer has not shown that it is a member: few, and none of them in a member's way.
//!
//! Invariant: there are at most `STRANGERS_MAX`; when one more comes, the oldest of the address with the most has to
//! go, once it had `STRANGER_GRACE`. So a host that holds many open keeps out itself, and who shows a certificate at
//! once is not held up. Not here: what a stranger may ask (`server.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limits::{STRANGER_GRACE, STRANGERS_MAX};

/// See the module.
#[derive(Debug, Default)]
pub struct Strangers {
    // Leaf lock.
    table: Mutex<Table>,
    freed: Notify,
    /// Addresses whose members of another cluster were told of, the newest last. Leaf lock.
    foreign: Mutex<VecDeque<IpAddr>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    here: BTreeMap<u64, Stranger>,
}

#[derive(Debug)]
struct Stranger {
    from: IpAddr,
    since: Instant,
    end: CancellationToken,
}

/// The place of one stranger. It is free again when this is dropped.
#[derive(Debug)]
pub struct Seat {
    strangers: Arc<Strangers>,
    number: u64,
    end: CancellationToken,
}

impl Seat {
    /// Ends when the place is needed for another.
    pub async fn ended(&self) {
        self.end.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.strangers.table.lock().here.remove(&self.number);
        self.strangers.freed.notify_one();
    }
}

impl Strangers {
    /// A place for a connection from `from`; waits for at most `STRANGER_GRACE`.
    pub async fn seat(self: &Arc<Self>, from: IpAddr) -> Seat {
        loop {
            let freed = self.freed.notified();
            let wait = match self.table.lock().try_seat(from, Instant::now()) {
                Ok((number, end)) => {
                    return Seat {
                        strangers: Arc::clone(self),
                        number,
                        end,
                    };
                }
                Err(wait) => wait,
            };
            tokio::select! {
                () = freed => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Whether this is the first refused certificate from `from`: the peer tries again and again.
    pub fn is_newly_foreign(&self, from: IpAddr) -> bool {
        let mut foreign = self.foreign.lock();
        if foreign.contains(&from) {
            return false;
        }
        if foreign.len() == STRANGERS_MAX {
            foreign.pop_front();
        }
        foreign.push_back(from);
        true
    }
}

impl Table {
    /// A place at once, for which another may have to go; or how long to wait for one.
    fn try_seat(
        &mut self,
        from: IpAddr,
        now: Instant,
    ) -> Result<(u64, CancellationToken), Duration> {
        if self.here.len() >= STRANGERS_MAX
            && let Some(number) = self.most_dispensable()
        {
            let age = now.saturating_duration_since(self.here[&number].since);
            if age < STRANGER_GRACE {
                return Err(STRANGER_GRACE - age);
            }
            if let Some(stranger) = self.here.remove(&number) {
                stranger.end.cancel();
            }
        }
        let (number, end) = (self.next, CancellationToken::new());
        self.next += 1;
        let stranger = Stranger {
            from,
            since: now,
            end: end.clone(),
        };
        self.here.insert(number, stranger);
        Ok((number, end))
    }

    /// The oldest of the address that has the most.
    fn most_dispensable(&self) -> Option<u64> {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for stranger in self.here.values() {
            *counts.entry(stranger.from).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        let crowd = |(_, stranger): &(&u64, &Stranger)| counts[&stranger.from] == most;
        self.here.iter().find(crowd).map(|(&number, _)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn the_oldest_of_the_most_crowded_address_makes_room() {
        let (mut table, start) = (Table::default(), Instant::now());
        let (_, alone) = table.try_seat(address(1), start).unwrap();
        let crowd: Vec<_> = (1..STRANGERS_MAX)
            .map(|_| table.try_seat(address(2), start).unwrap().1)
            .collect();
        let later = start + STRANGER_GRACE;
        let (_, late) = table.try_seat(address(3), later).unwrap();
        assert!(crowd[0].is_cancelled() && !crowd[1].is_cancelled());
        assert!(!alone.is_cancelled() && !late.is_cancelled());
        assert_eq!(table.here.len(), STRANGERS_MAX);
    }

    #[test]
    fn nobody_has_to_go_before_it_had_time_to_say_who_it_is() {
        let (mut table, start) = (Table::default(), Instant::now());
        for _ in 0..STRANGERS_MAX {
            table.try_seat(address(2), start).unwrap();
        }
        let early = start + STRANGER_GRACE / 4;
        let wait = table.try_seat(address(3), early).unwrap_err();
        assert_eq!(wait, STRANGER_GRACE - STRANGER_GRACE / 4);
    }

    #[test]
    fn an_address_of_another_cluster_is_told_of_once_and_few_are_remembered() {
        let strangers = Strangers::default();
        let told = [1, 2, 1].map(|last| strangers.is_newly_foreign(address(last)));
        assert_eq!(told, [true, true, false]);
        for last in 0..u8::MAX {
            strangers.is_newly_foreign(address(last));
        }
        assert_eq!(strangers.foreign.lock().len(), STRANGERS_MAX);
    }

    #[tokio::test]
    async fn a_dropped_seat_is_free_at_once() {
        let strangers = Arc::new(Strangers::default());
        let mut seats = Vec::new();
        for _ in 0..STRANGERS_MAX {
            seats.push(strangers.seat(address(1)).await);
        }
        seats.pop();
        let _another = strangers.seat(address(1)).await;
        assert!(seats.iter().all(|seat| !seat.end.is_cancelled()));
    }
}
