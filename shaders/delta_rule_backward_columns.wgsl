// delta_rule_backward_columns: what the gradient of delta_rule needs of columns of the state, token by token.
//   BACKWARD 0: u_t = v_t - a_t S^T k_t;   S <- a_t S + k_t (b_t u_t)^T                 S [key_dim, value_dim]
//   BACKWARD 1, from the last token on, with the gradient G of S:
//               G <- G + q_t d_t^T;   dv_t = b_t G^T k_t;   G <- a_t (G - k_t dv_t^T)
//   qkv       [tokens, q_stride] f32, as in delta_rule.wgsl
//   work      [tokens, w_stride] f32: a and b of every head, u, dv and the gradient d of the result, side by side, the
//                                last three [heads * value_dim]; u or dv are written
//   state     [sequences * heads * key_dim, s_stride] f32: S or G, in place
//   dispatch  (parts of the values of a head times heads, sequences folded into (y, z)); 64 values a workgroup
// G knows nothing of S: neither the states of all tokens are kept, nor is the decay inverted.
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
    w_stride: u32,
    s_stride: u32,
    key_dim: u32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;              // [tokens, q_stride]
@group(0) @binding(2) var<storage, read_write> work: array<f32>;       // [tokens, w_stride]
@group(0) @binding(3) var<storage, read_write> state: array<f32>;      // [sequences * heads * key_dim, s_stride]

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
    let value = head * params.value_dim + column;
    let v_column = 2u * params.key_heads * params.key_dim + value;
    let width = params.heads * params.value_dim;
    let u_column = 2u * params.heads + value;
    let own = ((params.first_state + sequence) * params.heads + head) * params.key_dim * params.s_stride + column;
    var s: array<f32, KEY_DIM>;
    for (var i = 0u; i < KEY_DIM; i += 1u) {
        s[i] = 0.0;
        if params.begins == 0u && is_there(i) { s[i] = state[own + i * params.s_stride]; }
    }
    for (var number = 0u; number < params.tokens; number += 1u) {
        let token = params.first + sequence * params.apart + select(number, params.tokens - 1u - number, BACKWARD == 1u);
        let row = token * params.q_stride;
        let own_work = token * params.w_stride;
        let kept = work[own_work + head];
        let beta = work[own_work + params.heads + head];
        var sum = 0.0;
        if BACKWARD == 0u {
            for (var i = 0u; i < KEY_DIM; i += 1u) {
                sum += s[i] * load(row + k_column, i);
            }
            let error = qkv[row + v_column] - kept * sum;
            work[own_work + u_column] = error;
            for (var i = 0u; i < KEY_DIM; i += 1u) {
                s[i] = kept * s[i] + beta * error * load(row + k_column, i);
            }
        } else {
            let gradient = work[own_work + u_column + 2u * width];
            for (var i = 0u; i < KEY_DIM; i += 1u) {
                s[i] += gradient * load(row + q_column, i);
                sum += s[i] * load(row + k_column, i);
            }
            work[own_work + u_column + width] = beta * sum;
            for (var i = 0u; i < KEY_DIM; i += 1u) {
                s[i] = kept * (s[i] - beta * sum * load(row + k_column, i));
            }
        }
    }
    for (var i = 0u; i < KEY_DIM; i += 1u) {
        if is_there(i) { state[own + i * params.s_stride] = s[i]; }
    }
}
