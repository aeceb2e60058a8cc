//! Do numbers come back from how they are stored, to the bit, and is what cannot be stored known?

use half::{bf16, f16};
use slicegpt_gpu::gpu::ElementType::{self, Bf16, F16, F32};

#[test]
fn every_16_bit_number_comes_back_and_every_one_that_is_none_is_found() {
    for element in [F16, Bf16] {
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            let exact = if element == F16 { f16::from_bits(bits).to_f32() } else { bf16::from_bits(bits).to_f32() };
            let [value] = element.decode(&bytes).collect::<Vec<_>>()[..] else { panic!("one number") };
            assert_eq!(value.to_bits(), exact.to_bits(), "{element:?} {bits:#06x}");
            assert_eq!(element.first_not_finite(&bytes), (!exact.is_finite()).then_some(0), "{element:?} {bits:#06x}");
            if exact.is_finite() {
                assert_eq!(element.encode(&[exact]), bytes, "{element:?} {bits:#06x}");
                assert_eq!(element.nearest(exact.into()), exact);
                assert!(exact.abs() <= element.max());
            }
        }
    }
}

#[test]
fn numbers_are_rounded_to_the_nearest_and_to_even_where_two_are() {
    // Between 1 and the next number, half way and a little more; then half way to the one after that.
    for (element, ulp) in [(F16, 2f32.powi(-10)), (Bf16, 2f32.powi(-7))] {
        let rounded = |value: f32| element.decode(&element.encode(&[value])).next();
        assert_eq!(rounded(1.0 + ulp / 2.0), Some(1.0), "{element:?}");
        assert_eq!(rounded(1.0 + ulp / 2.0 + f32::EPSILON), Some(1.0 + ulp), "{element:?}");
        assert_eq!(rounded(1.0 + 1.5 * ulp), Some(1.0 + 2.0 * ulp), "{element:?}");
    }
}

#[test]
fn many_numbers_are_stored_one_after_the_other_and_rows_are_padded_to_four() {
    let values = [0.5, -2.0, f32::INFINITY, 3.0, f32::NAN];
    for (element, size) in [(F32, 4), (F16, 2), (Bf16, 2)] {
        let bytes = element.encode(&values);
        assert_eq!(bytes.len(), size * values.len());
        assert_eq!(element.first_not_finite(&bytes), Some(2), "{element:?}");
        assert_eq!(element.decode(&bytes).take(2).collect::<Vec<_>>(), values[..2]);
        assert_eq!(element.row_bytes(5), 8 * size as u64, "{element:?}");
    }
    assert_eq!([F32, F16, Bf16].map(ElementType::name), ["float32", "float16", "bfloat16"]);
}
