// sample: draw a token from softmax(logits / temperature), by the Gumbel-max rule, over a vocabulary that arrives in
// slices.
//   argmax_v ( logits[t, v] / temperature - log(-log(1 - u(seed, step, t, v))) ) is distributed as the softmax; ties
//   go to the lower v
//   best      [tokens] f32, the winner's value so far; start from -1e30
//   ids       [tokens] u32, the winner so far
//   dispatch  one workgroup a token, folded into (x, y)
// The noise is a hash of what it is for, so it does not depend on how sequences are batched.
struct Params {
    tokens: u32,
    width: u32,
    stride: u32,
    first: u32,
    seed: u32,
    step: u32,
    first_row: u32,
    inverse_temperature: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;           // [tokens, stride]
@group(0) @binding(2) var<storage, read_write> best: array<f32>;       // [tokens]
@group(0) @binding(3) var<storage, read_write> ids: array<u32>;        // [tokens]

var<workgroup> values: array<f32, 64>;
var<workgroup> winners: array<u32, 64>;

// PCG3D of Jarzynski and Olano: three words in, three well-mixed words out.
fn hash3(input: vec3<u32>) -> vec3<u32> {
    var v = input * 1664525u + 1013904223u;
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v ^= v >> vec3(16u);
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    return v;
}

fn gumbel(row: u32, token: u32) -> f32 {
    // 23 bits: with one more, adding a half would round to 1 for the last number, whose noise is infinite.
    let bits = hash3(vec3(params.seed ^ (row * 0x9e3779b9u), params.step, token)).x >> 9u;
    let u = (f32(bits) + 0.5) / 8388608.0;
    // -log(1 - u); log is only good to 2^-21 around 1, which small u would not survive.
    let exponential = select(-log(1.0 - u), u * (1.0 + u * (0.5 + u / 3.0)), u < 0.015625);
    return -log(exponential);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = linear_workgroup(group, groups);
    if token >= params.tokens {
        return;
    }
    var value = -1e30;
    var winner = 0u;
    for (var i = index; i < params.width; i += 64u) {
        let candidate = logits[token * params.stride + i] * params.inverse_temperature + gumbel(params.first_row + token, params.first + i);
        if candidate > value {
            value = candidate;
            winner = params.first + i;
        }
    }
    values[index] = value;
    winners[index] = winner;
    workgroupBarrier();
    if index == 0u {
        value = best[token];
        winner = ids[token];
        for (var i = 0u; i < 64u; i += 1u) {
            if values[i] > value || (values[i] == value && winners[i] < winner) {
                value = values[i];
                winner = winners[i];
            }
        }
        best[token] = value;
        ids[token] = winner;
    }
}
