//! Dirty ranges of several handles beside a plain file: what a reader of the node sees is all calls in their order,
//! what is committed is those calls that were committed, in their order too, whatever order they were committed in.

use proptest::prelude::*;

use super::*;

const HANDLES: usize = 3;
const SIZE: u64 = 80;

#[derive(Debug, Clone)]
enum Step {
    Call(usize, Call),
    /// `truncate(2)` by path: committed at once.
    TruncatePath(u64),
    Begin(usize),
    Settle {
        committed: bool,
    },
}

#[derive(Debug, Clone)]
enum Call {
    Write(u64, Vec<u8>),
    Truncate(u64),
    Extend(u64),
    Punch(u64, u64),
}

impl Call {
    fn make(&self, content: &mut Content) {
        match self {
            Self::Write(offset, data) => content.write(*offset, data).unwrap(),
            Self::Truncate(size) => content.truncate(*size).unwrap(),
            Self::Extend(size) => content.apply_op(&ContentOp::Extend(*size)).unwrap(),
            Self::Punch(offset, end) => content.zero(*offset, end.saturating_sub(*offset)),
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let call = prop_oneof![
        6 => (0..SIZE, prop::collection::vec(1u8.., 1..30)).prop_map(|(o, d)| Call::Write(o, d)),
        2 => (0..SIZE).prop_map(Call::Truncate),
        1 => Just(Call::Truncate(0)),
        1 => (0..SIZE).prop_map(Call::Extend),
        1 => (0..SIZE, 0..SIZE).prop_map(|(a, b)| Call::Punch(a.min(b), a.max(b))),
    ];
    prop_oneof![
        10 => (0..HANDLES, call).prop_map(|(handle, call)| Step::Call(handle, call)),
        1 => (0..SIZE).prop_map(Step::TruncatePath),
        3 => (0..HANDLES).prop_map(Step::Begin),
        4 => prop::bool::weighted(0.8).prop_map(|committed| Step::Settle { committed }),
    ]
}

/// A file with its handles, and beside it every call that was made.
#[derive(Default)]
struct Node {
    committed: Content,
    pending: [DirtyRanges; HANDLES],
    in_flight: Option<(usize, DirtyRanges)>,
    calls: Vec<(usize, Call, State)>,
    order: Order,
    last: Option<usize>,
    base: Content,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    InFlight,
    Committed,
}

impl Node {
    fn tick(&mut self, handle: Option<usize>) -> Order {
        if handle.is_none() || self.last != handle {
            self.order.0 += 1;
        }
        self.last = handle;
        self.order
    }

    fn view(&self) -> Content {
        let in_flight = self.in_flight.iter().map(|(_, ranges)| ranges);
        lay_over(&self.committed, in_flight.chain(&self.pending))
    }

    fn call(&mut self, handle: usize, call: Call) {
        let at = self.tick(Some(handle));
        let size = self.view().size();
        let dirty = &mut self.pending[handle];
        let call = match call {
            Call::Punch(offset, end) => Call::Punch(offset, end.min(size)),
            call => call,
        };
        match &call {
            Call::Write(offset, data) => dirty.write(at, *offset, data).unwrap(),
            Call::Truncate(size) => dirty.truncate(at, *size).unwrap(),
            Call::Extend(size) => dirty.extend(at, *size).unwrap(),
            Call::Punch(offset, end) => dirty.zero(at, *offset, *end).unwrap(),
        }
        self.calls.push((handle, call, State::Pending));
    }

    fn commit(&mut self, ranges: &DirtyRanges) {
        self.committed.apply(&ranges.to_update()).unwrap();
        for pending in &mut self.pending {
            pending.give_way_to(ranges);
        }
    }

    fn mark(&mut self, handle: usize, from: State, to: State) {
        let calls = self.calls.iter_mut();
        for call in calls.filter(|call| call.0 == handle && call.2 == from) {
            call.2 = to;
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Call(handle, call) => self.call(handle, call),
            Step::TruncatePath(_) if self.in_flight.is_some() => {}
            Step::TruncatePath(size) => {
                let at = self.tick(None);
                let mut ranges = DirtyRanges::default();
                ranges.truncate(at, size).unwrap();
                self.commit(&ranges);
                let call = Call::Truncate(size);
                self.calls.push((HANDLES, call, State::Committed));
            }
            Step::Begin(handle) if self.in_flight.is_none() => {
                self.last = None;
                self.in_flight = Some((handle, std::mem::take(&mut self.pending[handle])));
                self.mark(handle, State::Pending, State::InFlight);
            }
            Step::Begin(_) => {}
            Step::Settle { committed } => {
                let Some((handle, ranges)) = self.in_flight.take() else {
                    return;
                };
                if committed {
                    self.commit(&ranges);
                    self.mark(handle, State::InFlight, State::Committed);
                } else {
                    self.pending[handle].take_back(ranges);
                    self.mark(handle, State::InFlight, State::Pending);
                }
            }
        }
    }

    fn all_calls(&self, only: impl Fn(State) -> bool) -> Vec<u8> {
        let mut content = self.base.clone();
        let calls = self.calls.iter().filter(|call| only(call.2));
        calls.for_each(|(_, call, _)| call.make(&mut content));
        content.to_vec()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn readers_see_the_calls_in_order_and_commits_never_cover_later_ones(
        base in prop::collection::vec(any::<u8>(), 0..60),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let mut node = Node::default();
        node.base.write(0, &base).unwrap();
        node.committed = node.base.clone();
        for step in steps {
            node.step(step);
            prop_assert_eq!(node.view().to_vec(), node.all_calls(|_| true));
            for dirty in &node.pending {
                let each: u64 = dirty.extents.values().map(Extent::weight).sum();
                prop_assert_eq!(dirty.extents.weight, each);
            }
            prop_assert_eq!(node.committed.to_vec(), node.all_calls(|state| state == State::Committed));
        }
        for handle in (0..HANDLES).rev() {
            node.step(Step::Settle { committed: true });
            node.step(Step::Begin(handle));
        }
        node.step(Step::Settle { committed: true });
        prop_assert_eq!(node.committed.to_vec(), node.all_calls(|_| true));
    }
}

#[test]
fn writes_in_a_row_are_one_range() {
    let mut dirty = DirtyRanges::default();
    dirty.truncate(Order(1), 0).unwrap();
    dirty.write(Order(1), 0, b"one ").unwrap();
    dirty.write(Order(1), 4, b"two").unwrap();
    let whole = ContentOp::Write {
        offset: 0,
        data: b"one two".to_vec(),
    };
    assert_eq!(dirty.to_update(), ContentUpdate::Replace(vec![whole]));
}

#[test]
fn a_write_past_the_largest_file_is_refused() {
    let mut dirty = DirtyRanges::default();
    dirty.write(Order(1), FILE_BYTES_MAX - 1, &[1]).unwrap();
    let refused = Err(FsError::FileTooLarge);
    assert_eq!(dirty.write(Order(1), FILE_BYTES_MAX, &[1]), refused);
    assert_eq!(dirty.truncate(Order(1), FILE_BYTES_MAX + 1), refused);
    assert_eq!(dirty.extend(Order(1), FILE_BYTES_MAX + 1), refused);
}
