// energy: the squared length of every token.
//   e[t] = sum_i x[t, i]^2
//   x         [tokens, width]  f32
//   e         [tokens]         f32
//   dispatch  LANES threads a token, 64 / LANES tokens a workgroup, folded into (x, y)
struct Params {
    tokens: u32,
    width: u32,
    stride: u32,
    unused: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [tokens, stride]
@group(0) @binding(2) var<storage, read_write> e: array<f32>;          // [tokens]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = linear_workgroup(group, groups) * (64u / LANES) + index / LANES;
    // Threads beyond the last token go along through the barriers, with nothing to do.
    let width = select(0u, params.width, token < params.tokens);
    let lane = index % LANES;
    let start = token * params.stride;
    var sum = 0.0;
    for (var i = lane; i < width; i += LANES) {
        let value = x[start + i];
        sum += value * value;
    }
    let total = reduce_sum(sum, index);
    if lane == 0u && token < params.tokens {
        e[token] = total;
    }
}
