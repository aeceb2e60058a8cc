// delta_rule: the gated delta rule, token by token, with the state of every head from before and for afterwards.
//   S <- a_t S;   S <- S + k_t (b_t (v_t - S^T k_t))^T;   out[t, h] = S^T q_t        S [key_dim, value_dim] of head h
//   qkv       [tokens, q_stride]  f32: queries and keys of `key_heads` heads of key_dim, values of `heads` heads of
//                                 value_dim, side by side; head h reads the key of head h * key_heads / heads
//   gates     [tokens, g_stride]  f32: a of every head, then b of every head
//   state     [sequences * heads * key_dim, s_stride] f32, in place
//   out       [tokens, o_stride]  f32: head h begins at h * value_dim
//   dispatch  (parts of the values of a head times heads, sequences folded into (y, z)); 64 values a workgroup
// Columns of the state do not know of each other: a thread has one of them in its registers, and there are no barriers.
// KEY_DIM registers hold key_dim values of it, EXACT where that is as many.
// All sequences of a dispatch are equally long and lie one after the other, `apart` tokens from each to the next.
struct Params {
    sequences: u32,
    first: u32,
    tokens: u32,
    apart: u32,
    first_state: u32,
    begins: u32,
    heads: u32,
    key_heads: u32,
    value_dim: u32,
    q_stride: u32,
    g_stride: u32,
    s_stride: u32,
    o_stride: u32,
    key_dim: u32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;              // [tokens, q_stride]
@group(0) @binding(2) var<storage, read> gates: array<f32>;            // [tokens, g_stride]
@group(0) @binding(3) var<storage, read_write> state: array<f32>;      // [sequences * heads * key_dim, s_stride]
@group(0) @binding(4) var<storage, read_write> out: array<f32>;        // [tokens, o_stride]

fn is_there(i: u32) -> bool {
    return EXACT == 1u || i < params.key_dim;
}

fn load(at: u32, i: u32) -> f32 {
    if is_there(i) { return qkv[at + i]; }
    return 0.0;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let sequence = folded_row(group, groups);
    let head = group.x % params.heads;
    let column = group.x / params.heads * 64u + index;
    if sequence >= params.sequences || column >= params.value_dim {
        return;
    }
    let key_head = head * params.key_heads / params.heads;
    let q_column = key_head * params.key_dim;
    let k_column = (params.key_heads + key_head) * params.key_dim;
    let v_column = 2u * params.key_heads * params.key_dim + head * params.value_dim + column;
    let own = ((params.first_state + sequence) * params.heads + head) * params.key_dim * params.s_stride + column;
    var s: array<f32, KEY_DIM>;
    for (var i = 0u; i < KEY_DIM; i += 1u) {
        // A sequence that begins has none, whatever is there.
        s[i] = 0.0;
        if params.begins == 0u && is_there(i) { s[i] = state[own + i * params.s_stride]; }
    }
    for (var t = 0u; t < params.tokens; t += 1u) {
        let token = params.first + sequence * params.apart + t;
        let row = token * params.q_stride;
        let kept = gates[token * params.g_stride + head];
        let beta = gates[token * params.g_stride + params.heads + head];
        var known = 0.0;
        for (var i = 0u; i < KEY_DIM; i += 1u) {
            known += s[i] * load(row + k_column, i);
        }
        let error = beta * (qkv[row + v_column] - kept * known);
        var sum = 0.0;
        for (var i = 0u; i < KEY_DIM; i += 1u) {
            s[i] = kept * s[i] + error * load(row + k_column, i);
            sum += s[i] * load(row + q_column, i);
        }
        out[token * params.o_stride + head * params.value_dim + column] = sum;
    }
    for (var i = 0u; i < KEY_DIM; i += 1u) {
        if is_there(i) { state[own + i * params.s_stride] = s[i]; }
    }
}
