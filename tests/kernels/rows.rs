//! embed, copy_rows and transpose: rows that are looked up, moved and turned.

use half::{bf16, f16};
use slicegpt_gpu::{
    gpu::ElementType,
    ops::{RowCopy, transposed_columns},
    reference,
};

use crate::{
    check, download, error,
    support::{self, ROUNDOFF, Random},
    upload,
};

#[test]
fn embed_matches_reference_in_every_type_and_in_parts() {
    for (binding, reason) in [(None, "one binding"), (Some(1 << 16), "a table in parts")] {
        let gpu = support::gpu_with(binding);
        for element in [ElementType::F32, ElementType::F16, ElementType::Bf16] {
            for (rows, width, tokens) in [(1, 1, 1), (300, 97, 70), (1000, 64, 5), (77, 6, 130)] {
                let mut random = Random::new(rows as u64);
                let values = random.values(rows * width, 1.0);
                let bytes: Vec<u8> = match element {
                    ElementType::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
                    ElementType::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
                    _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
                };
                let table = gpu.upload_bytes(&bytes, rows, width, element).expect("a table");
                let twin = download(&gpu, &table);
                let ids: Vec<u32> = (0..tokens)
                    .map(|token| if token == 0 { rows as u32 - 1 } else { random.below(rows as u32) })
                    .collect();
                let gpu_ids = gpu.upload_u32(&ids).expect("ids");
                let x = gpu.zeros(tokens, width).expect("zeros");
                gpu.embed(&gpu_ids, 0, &table, &x, false).expect("embed");
                let expected = reference::embed(&ids, &twin);
                // Nothing is rounded.
                check(
                    &format!("embed {element:?} [{rows}, {width}] {tokens} tokens ({reason})"),
                    error(&download(&gpu, &x), &expected, |_, _| 1.0),
                    0.0,
                );
                gpu.embed(&gpu_ids, 0, &table, &x, true).expect("embed");
                let error = error(&download(&gpu, &x), &(expected * 2.0), |_, _| 1.0);
                check(&format!("embed {element:?} [{rows}, {width}] {tokens} tokens, added ({reason})"), error, 0.0);
            }
        }
    }
}

#[test]
fn every_finite_f16_value_is_widened_to_the_same_bits_as_on_the_cpu() {
    let values: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|value| value.is_finite()).collect();
    assert_eq!(values.len(), 65536 - 2 * 1024);
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let (rows, width) = (values.len() / 8, 8);
    for gpu in [support::gpu_unlimited(), support::gpu_downlevel()] {
        let table = gpu.upload_bytes(&bytes, rows, width, ElementType::F16).expect("table");
        let ids: Vec<u32> = (0..rows as u32).collect();
        let x = gpu.zeros(rows, width).expect("zeros");
        gpu.embed(&gpu.upload_u32(&ids).expect("ids"), 0, &table, &x, false).expect("embed");
        for (found, value) in gpu.download(&x).expect("values").into_iter().zip(&values) {
            let unpacks = gpu.unpacks_f16();
            assert_eq!(
                found.to_bits(),
                value.to_f32().to_bits(),
                "{:#06x} became {found:e} (unpacked by the driver: {unpacks})",
                value.to_bits()
            );
        }
    }
}

#[test]
fn embed_leaves_tokens_of_other_slices_of_the_vocabulary_alone() {
    let gpu = support::gpu_unlimited();
    let mut random = Random::new(1);
    let (values, before) = (random.values(20 * 7, 1.0), random.values(4 * 7, 1.0));
    let ids = [9, 10, 29, 30];
    let x = upload(&gpu, &before, 4, 7);
    gpu.embed(&gpu.upload_u32(&ids).expect("ids"), 10, &upload(&gpu, &values, 20, 7), &x, false).expect("embed");
    let mut expected = reference::matrix(4, 7, &before);
    expected.rows_mut(1, 2).copy_from(&reference::embed(&[0, 19], &reference::matrix(20, 7, &values)));
    check("embed of a slice from 10 to 29", error(&download(&gpu, &x), &expected, |_, _| 1.0), 0.0);
}

#[test]
fn positions_are_added_from_the_row_of_position_zero() {
    for binding in [None, Some(1 << 16)] {
        let gpu = support::gpu_with(binding);
        let (rows, width) = (260, 90);
        let mut random = Random::new(2);
        let (values, before) = (random.values(rows * width, 1.0), random.values(6 * width, 1.0));
        let positions = [0, 1, 257, 100, 130, 131];
        let x = upload(&gpu, &before, 6, width);
        gpu.embed_positions(
            &gpu.upload_u32(&positions).expect("positions"),
            0,
            2,
            &upload(&gpu, &values, rows, width),
            &x,
        )
        .expect("positions");
        let expected = reference::matrix(6, width, &before)
            + reference::embed_positions(&positions, 2, &reference::matrix(rows, width, &values));
        // One sum is rounded.
        let most = expected.amax();
        check(
            &format!("embed_positions with bindings of {binding:?}"),
            error(&download(&gpu, &x), &expected, |_, _| most),
            ROUNDOFF,
        );
    }
}

#[test]
fn copy_rows_moves_columns_and_nothing_else() {
    let gpu = support::gpu_unlimited();
    let mut random = Random::new(4);
    for (width, from_column, cols, to_column, reason) in [
        (50, 0, 50, 0, "whole rows"),
        (50, 20, 20, 3, "some columns, elsewhere"),
        (700, 1, 643, 55, "more than a workgroup copies, at odd places"),
        (50, 49, 1, 52, "one value"),
    ] {
        let (from, to) = (random.values(9 * width, 1.0), random.values(30 * (width + 3), 1.0));
        let rows = [(8, 0), (0, 29), (3, 3), (3, 4)];
        let copy = RowCopy { from_column, cols, to_column };
        let gpu_to = upload(&gpu, &to, 30, width + 3);
        gpu.copy_rows(&upload(&gpu, &from, 9, width), &gpu_to, &rows, copy).expect("copy_rows");
        let mut expected = reference::matrix(30, width + 3, &to);
        reference::copy_rows(&reference::matrix(9, width, &from), &mut expected, &rows, copy);
        check(&format!("copy_rows {copy:?} ({reason})"), error(&download(&gpu, &gpu_to), &expected, |_, _| 1.0), 0.0);
    }
}

#[test]
fn transpose_turns_tokens_and_fills_up_with_zeros() {
    let gpu = support::gpu_unlimited();
    for (tokens, width, columns, reason) in [
        (1, 1, 0..1, "the smallest"),
        (64, 32, 0..32, "whole tiles"),
        (65, 33, 0..33, "one token and one coordinate more"),
        (2, 6, 0..6, "less than four tokens"),
        (40, 150, 64..131, "a part of the columns"),
        (9, 11, 8..11, "the last columns"),
        (3, 8, 4..4, "no columns"),
    ] {
        let values = Random::new((tokens * 1000 + width) as u64).values(tokens * width, 1.0);
        let x = upload(&gpu, &values, tokens, width);
        let size = [columns.len().next_multiple_of(4), transposed_columns(tokens)];
        let expected = reference::transpose(&reference::matrix(tokens, width, &values), columns.start, size);
        // What lay in the buffer before must be overwritten.
        drop(upload(&gpu, &vec![7.0; expected.len()], size[0], size[1]));
        let turned = gpu.transpose(&x, columns).expect("transpose");
        check(
            &format!("transpose [{tokens}, {width}] ({reason})"),
            error(&download(&gpu, &turned), &expected, |_, _| 1.0),
            0.0,
        );
    }
    for (rows, cols) in [(1, 1), (3, 8), (33, 65), (128, 6)] {
        let values = Random::new((rows * 1000 + cols) as u64).values(rows * cols, 1.0);
        let transposed = gpu.transposed(&upload(&gpu, &values, rows, cols)).expect("transposed");
        let expected = reference::matrix(rows, cols, &values).transpose();
        check(&format!("transposed [{rows}, {cols}]"), error(&download(&gpu, &transposed), &expected, |_, _| 1.0), 0.0);
    }
    let x = gpu.zeros(5, 12).expect("zeros");
    for columns in [8..13, 2..6] {
        assert!(gpu.transpose(&x, columns).is_err());
    }
}
