// Weights stored as bf16, two to a u32: the upper half of an f32 each.
@group(0) @binding(2) var<storage, read> w: array<vec2<u32>>;

fn load_w(i: u32) -> vec4<f32> {
    let p = w[i];
    return bitcast<vec4<f32>>(vec4(p.x << 16u, p.x & 0xffff0000u, p.y << 16u, p.y & 0xffff0000u));
}
