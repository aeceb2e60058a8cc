// What a thread of the attention kernel holds: scores of 8 queries and 4 keys, results of the same 8 queries and up
// to 4 times 4 coordinates.
// Named, not arrays: see block_8x8.wgsl. Query r of the first half is a component of a0, of the second half of a1.
var<private> s0: vec4<f32>; var<private> s1: vec4<f32>; var<private> s2: vec4<f32>; var<private> s3: vec4<f32>;
var<private> s4: vec4<f32>; var<private> s5: vec4<f32>; var<private> s6: vec4<f32>; var<private> s7: vec4<f32>;

// A matrix for four queries and one part of the coordinates: a column a query.
var<private> o00: mat4x4<f32>; var<private> o01: mat4x4<f32>; var<private> o02: mat4x4<f32>; var<private> o03: mat4x4<f32>;
var<private> o10: mat4x4<f32>; var<private> o11: mat4x4<f32>; var<private> o12: mat4x4<f32>; var<private> o13: mat4x4<f32>;

fn clear_scores() {
    s0 = vec4(0.0); s1 = vec4(0.0); s2 = vec4(0.0); s3 = vec4(0.0);
    s4 = vec4(0.0); s5 = vec4(0.0); s6 = vec4(0.0); s7 = vec4(0.0);
}

// One coordinate of 8 queries and 4 keys.
fn add_to_scores(a0: vec4<f32>, a1: vec4<f32>, keys: vec4<f32>) {
    s0 = fma(a0.xxxx, keys, s0); s1 = fma(a0.yyyy, keys, s1); s2 = fma(a0.zzzz, keys, s2); s3 = fma(a0.wwww, keys, s3);
    s4 = fma(a1.xxxx, keys, s4); s5 = fma(a1.yyyy, keys, s5); s6 = fma(a1.zzzz, keys, s6); s7 = fma(a1.wwww, keys, s7);
}

// One key's value, weighted for four queries.
fn weighted(o: mat4x4<f32>, a: vec4<f32>, value: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(fma(a.xxxx, value, o[0]), fma(a.yyyy, value, o[1]), fma(a.zzzz, value, o[2]), fma(a.wwww, value, o[3]));
}

// One key's value; `at` is its first part for this thread in a row of `tile`.
fn add_to_results(a0: vec4<f32>, a1: vec4<f32>, at: u32) {
    let v0 = tile[at];
    o00 = weighted(o00, a0, v0); o10 = weighted(o10, a1, v0);
    if PARTS > 1u {
        let v1 = tile[at + 8u];
        o01 = weighted(o01, a0, v1); o11 = weighted(o11, a1, v1);
    }
    if PARTS > 2u {
        let v2 = tile[at + 16u];
        o02 = weighted(o02, a0, v2); o12 = weighted(o12, a1, v2);
    }
    if PARTS > 3u {
        let v3 = tile[at + 24u];
        o03 = weighted(o03, a0, v3); o13 = weighted(o13, a1, v3);
    }
}

fn scaled(o: mat4x4<f32>, a: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(a.x * o[0], a.y * o[1], a.z * o[2], a.w * o[3]);
}

fn scale_results(a0: vec4<f32>, a1: vec4<f32>) {
    o00 = scaled(o00, a0); o10 = scaled(o10, a1);
    if PARTS > 1u { o01 = scaled(o01, a0); o11 = scaled(o11, a1); }
    if PARTS > 2u { o02 = scaled(o02, a0); o12 = scaled(o12, a1); }
    if PARTS > 3u { o03 = scaled(o03, a0); o13 = scaled(o13, a1); }
}
