//! The chunked content against the simplest model there is: a vector of bytes.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Write(u64, Vec<u8>),
    Truncate(u64),
    Extend(u64),
    Zero(u64, u64),
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..(3 * CHUNK + 100);
    prop_oneof![
        (at.clone(), prop::collection::vec(any::<u8>(), 0..40_000))
            .prop_map(|(o, d)| Op::Write(o, d)),
        at.clone().prop_map(Op::Truncate),
        at.clone().prop_map(Op::Extend),
        (at.clone(), at).prop_map(|(o, l)| Op::Zero(o, l)),
    ]
}

fn model_apply(model: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write(_, data) if data.is_empty() => {}
        Op::Write(offset, data) => {
            let (from, to) = (*offset as usize, *offset as usize + data.len());
            if model.len() < to {
                model.resize(to, 0);
            }
            model[from..to].copy_from_slice(data);
        }
        Op::Truncate(size) => model.resize(*size as usize, 0),
        Op::Extend(size) => model.resize(model.len().max(*size as usize), 0),
        Op::Zero(offset, len) => {
            let to = model.len().min((*offset + *len) as usize);
            if (*offset as usize) < to {
                model[*offset as usize..to].fill(0);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn content_equals_a_plain_vector(ops in prop::collection::vec(op(), 1..12)) {
        let mut content = Content::default();
        let mut model = Vec::new();
        for op in &ops {
            let real = match op.clone() {
                Op::Write(offset, data) => ContentOp::Write { offset, data },
                Op::Truncate(size) => ContentOp::Truncate(size),
                Op::Extend(size) => ContentOp::Extend(size),
                Op::Zero(offset, len) => ContentOp::Zero { offset, len },
            };
            content.apply_op(&real).unwrap();
            model_apply(&mut model, op);
            prop_assert_eq!(content.size(), model.len() as u64);
            prop_assert!(content.to_vec() == model);
            let copy = Content::from_chunks(content.size(), content.chunks().map(|(n, b)| (n, b.to_vec())));
            prop_assert_eq!(copy, Some(content.clone()));
        }
    }
}

#[test]
fn a_file_may_reach_its_maximum_and_not_one_byte_more() {
    let mut content = Content::default();
    let at_limit = ContentOp::Write {
        offset: FILE_BYTES_MAX - 1,
        data: vec![1],
    };
    content.apply_op(&at_limit).unwrap();
    let before = content.clone();
    let over = ContentUpdate::Patch(vec![
        ContentOp::Write {
            offset: 0,
            data: vec![7],
        },
        ContentOp::Write {
            offset: FILE_BYTES_MAX,
            data: vec![1],
        },
    ]);
    assert_eq!(content.apply(&over), Err(FsError::FileTooLarge));
    assert_eq!(content, before, "a refused update changes nothing");
    assert_eq!(
        content.apply_op(&ContentOp::Truncate(u64::MAX)),
        Err(FsError::FileTooLarge)
    );
}

#[test]
fn holes_and_data_are_found_by_chunk() {
    let mut content = Content::default();
    content.apply_op(&ContentOp::Truncate(4 * CHUNK)).unwrap();
    content
        .apply_op(&ContentOp::Write {
            offset: 2 * CHUNK,
            data: vec![1; CHUNK as usize],
        })
        .unwrap();
    assert_eq!(content.next_data(0), Some(2 * CHUNK));
    assert_eq!(content.next_hole(0), Some(0));
    assert_eq!(content.next_hole(2 * CHUNK + 5), Some(3 * CHUNK));
    assert_eq!(content.next_data(3 * CHUNK), None);
    assert_eq!(content.next_hole(4 * CHUNK), None);
    assert_eq!(content.stored_bytes(), CHUNK);
}
