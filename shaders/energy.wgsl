// energy: the squared length of every token.
//   e[t] = sum_i x[t, i]^2
//   x         [tokens, width]  f32
//   e         [tokens]         f32
//   dispatch  one workgroup a token, folded into (x, y)
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
    let token = linear_workgroup(group, groups);
    if token >= params.tokens {
        return;
    }
    var sum = 0.0;
    for (var i = index; i < params.width; i += 64u) {
        let value = x[token * params.stride + i];
        sum += value * value;
    }
    let total = reduce_sum(sum, index);
    if index == 0u {
        e[token] = total;
    }
}
