//! Who waits for what before a moved directory is answered.

use super::*;

const DIRECTORY: u64 = 10;
const OLD: u64 = 1;
const NEW: u64 = 2;
const ELSEWHERE: u64 = 3;
const THREAD: u32 = 7;

fn moving() -> Arc<Moving> {
    let moving = Arc::new(Moving::default());
    moving.place(DIRECTORY, OLD);
    moving
}

#[tokio::test]
async fn a_moved_directory_waits_for_the_request_in_its_old_parent() {
    let moving = moving();
    let request = moving.enter(vec![OLD]);
    let unmoved = moving.answer(DIRECTORY, OLD, THREAD);
    assert_eq!(unmoved, Answer::Now, "it has not moved");
    assert_eq!(moving.answer(DIRECTORY, NEW, THREAD), Answer::WhenFree);
    let waits = tokio::spawn({
        let moving = moving.clone();
        async move { moving.free(DIRECTORY, NEW, THREAD).await }
    });
    drop(request);
    waits.await.unwrap();
}

#[test]
fn a_moved_directory_is_placed_at_once_when_nobody_is_in_its_old_parent() {
    let moving = moving();
    let _elsewhere = moving.enter(vec![ELSEWHERE]);
    assert_eq!(moving.answer(DIRECTORY, NEW, THREAD), Answer::Now);
}

#[test]
fn two_requests_in_one_directory_are_counted() {
    let moving = moving();
    let (first, second) = (moving.enter(vec![OLD]), moving.enter(vec![OLD, ELSEWHERE]));
    drop(first);
    assert_eq!(moving.answer(DIRECTORY, NEW, THREAD), Answer::WhenFree);
    drop(second);
    assert_eq!(moving.answer(DIRECTORY, NEW, THREAD), Answer::Now);
}

#[test]
fn a_moved_directory_waits_for_any_rename_from_directory_to_directory() {
    let moving = moving();
    let rename = moving.enter(vec![ELSEWHERE, 4]);
    assert_eq!(moving.answer(DIRECTORY, NEW, THREAD), Answer::WhenFree);
    drop(rename);
    let _within_one = moving.enter(vec![ELSEWHERE, ELSEWHERE]);
    assert_eq!(moving.answer(DIRECTORY, NEW, THREAD), Answer::Now);
}

#[test]
fn a_lookup_that_is_tried_again_waits_a_little_a_few_times() {
    let moving = moving();
    assert_eq!(moving.answer(DIRECTORY, NEW, THREAD), Answer::Now);
    for _ in 0..MOVED_TRIES_MAX {
        assert_eq!(moving.answer(DIRECTORY, NEW, THREAD), Answer::Later);
    }
    assert_eq!(moving.answer(DIRECTORY, NEW, THREAD), Answer::Now);
}

#[test]
fn a_directory_that_is_new_to_the_kernel_is_answered_at_once_each_time() {
    let moving = Arc::new(Moving::default());
    let _rename = moving.enter(vec![ELSEWHERE, 4]);
    for _ in 0..2 {
        assert_eq!(moving.answer(DIRECTORY, NEW, THREAD), Answer::Now);
        assert_eq!(moving.unplaced_by(THREAD, ELSEWHERE), None);
    }
}

#[tokio::test]
async fn the_walk_after_waits_for_the_replay_to_place_the_directory() {
    let moving = moving();
    moving.answer(DIRECTORY, NEW, THREAD);
    let another = moving.unplaced_by(THREAD + 1, ELSEWHERE);
    assert_eq!(another, None, "another thread has looked up nothing");
    let unplaced = moving.unplaced_by(THREAD, ELSEWHERE);
    assert_eq!(unplaced, Some((DIRECTORY, NEW)));
    let again = moving.unplaced_by(THREAD, ELSEWHERE);
    assert_eq!(again, None, "it is asked once");
    let waits = tokio::spawn({
        let moving = moving.clone();
        async move { moving.placed(DIRECTORY, NEW).await }
    });
    moving.place(DIRECTORY, NEW);
    waits.await.unwrap();
    assert_eq!(moving.answer(DIRECTORY, NEW, THREAD), Answer::Now);
    assert_eq!(moving.unplaced_by(THREAD, ELSEWHERE), None);
}

/// Of two threads that look for it the kernel may fail both.
#[test]
fn a_place_that_another_threads_lookup_told_of_is_doubtful_as_well() {
    let moving = moving();
    moving.answer(DIRECTORY, NEW, THREAD);
    assert_eq!(moving.answer(DIRECTORY, NEW, THREAD + 1), Answer::Now);
    let unplaced = moving.unplaced_by(THREAD + 1, ELSEWHERE);
    assert_eq!(unplaced, Some((DIRECTORY, NEW)));
}

/// The kernel had forgotten it, and two lookups at two places race.
#[test]
fn a_first_place_is_doubtful_once_another_lookup_finds_another_place() {
    let moving = Moving::default();
    moving.answer(DIRECTORY, NEW, THREAD);
    moving.replay_finds(DIRECTORY, OLD);
    let unplaced = moving.unplaced_by(THREAD, ELSEWHERE);
    assert_eq!(unplaced, Some((DIRECTORY, NEW)));
}

#[test]
fn a_place_that_the_replays_lookup_told_of_is_doubtful_as_well() {
    let moving = moving();
    moving.replay_finds(DIRECTORY, NEW);
    assert_eq!(moving.answer(DIRECTORY, NEW, THREAD), Answer::Now);
    let unplaced = moving.unplaced_by(THREAD, ELSEWHERE);
    assert_eq!(unplaced, Some((DIRECTORY, NEW)));
}

#[test]
fn a_lookup_in_the_new_parent_itself_does_not_wait_for_the_replay() {
    let moving = moving();
    moving.answer(DIRECTORY, NEW, THREAD);
    assert_eq!(moving.unplaced_by(THREAD, NEW), None);
    assert_eq!(moving.answer(DIRECTORY, NEW, THREAD), Answer::Later);
}
