// Weights stored as f16, two to a u32: widened by integer arithmetic, for drivers that cannot unpack f16 at all.
@group(0) @binding(2) var<storage, read> w: array<vec2<u32>>;

// Exact for every finite value. With the exponent moved to that of f32, a normal value is right as it is, and a
// subnormal one, which has no implicit 1, is too large; one exponent more, less 2^-14, a subnormal value is right and a
// normal one too large. No f32 here is subnormal.
fn load_w(i: u32) -> vec4<f32> {
    let p = w[i];
    let halves = vec4(p.x << 16u, p.x, p.y << 16u, p.y);
    let shifted = (halves & vec4(0x7fff0000u)) >> vec4(3u);
    let normal = bitcast<vec4<f32>>(shifted + vec4(0x38000000u));
    let subnormal = bitcast<vec4<f32>>(shifted + vec4(0x38800000u)) - vec4(0x1p-14);
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(min(normal, subnormal)) | (halves & vec4(0x80000000u)));
}
