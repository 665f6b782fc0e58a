//! Comparing what watchers of one change saw on different nodes.

/// Whether a watcher elsewhere was told at least what the acting node's watcher saw, in order.
///
/// "A file with several names raises content and attribute events in the directory of each name" on the other nodes
/// (docs/SEMANTICS.md): besides those, each event must be there. `own` and `elsewhere` are the events of one name.
pub fn is_told_at_least(own: &[String], elsewhere: &[String]) -> bool {
    let of_names = |events: &[String]| -> Vec<String> {
        let all = events.iter().filter(|event| !may_be_of_another_name(event));
        all.cloned().collect()
    };
    let between = |events| <[String]>::split(events, |event| !may_be_of_another_name(event));
    of_names(own) == of_names(elsewhere)
        && between(own).zip(between(elsewhere)).all(|(own, all)| {
            let mut own = own.to_vec();
            own.dedup();
            let mut all = all.iter();
            own.iter().all(|event| all.any(|told| told == event))
        })
}

fn may_be_of_another_name(event: &str) -> bool {
    ["IN_MODIFY", "IN_CLOSE_WRITE", "IN_ATTRIB"]
        .iter()
        .any(|kind| event.contains(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comparison_finds_what_is_missing_and_forgives_what_another_name_raised() {
        let events = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let seen = events("IN_CREATE IN_MODIFY IN_MOVED_TO IN_MOVED_TO IN_ATTRIB IN_ATTRIB");
        for fine in [
            "IN_CREATE IN_MODIFY IN_MOVED_TO IN_MOVED_TO IN_ATTRIB",
            "IN_CREATE IN_ATTRIB IN_MODIFY IN_MOVED_TO IN_MODIFY IN_MOVED_TO IN_MODIFY IN_ATTRIB",
        ] {
            assert!(is_told_at_least(&seen, &events(fine)), "{fine}");
        }
        for wrong in [
            "IN_MODIFY IN_MOVED_TO IN_MOVED_TO IN_ATTRIB",
            "IN_CREATE IN_MOVED_TO IN_MODIFY IN_MOVED_TO IN_ATTRIB",
            "IN_CREATE IN_MODIFY IN_MOVED_TO IN_ATTRIB",
            "IN_CREATE IN_MODIFY IN_MOVED_TO IN_MOVED_TO IN_MODIFY",
            "IN_CREATE IN_MODIFY IN_MOVED_TO IN_MOVED_TO IN_ATTRIB IN_DELETE",
        ] {
            assert!(!is_told_at_least(&seen, &events(wrong)), "{wrong}");
        }
    }
}
