// Weights stored as f16, two to a u32: widened here, so that no f16 feature is needed. Where even this is missing,
// f16_bits.wgsl does it.
@group(0) @binding(2) var<storage, read> w: array<vec2<u32>>;

fn load_w(i: u32) -> vec4<f32> {
    let packed = w[i];
    return vec4(unpack2x16float(packed.x), unpack2x16float(packed.y));
}
