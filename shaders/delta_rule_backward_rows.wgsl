// delta_rule_backward_rows: the gradients of queries and keys of delta_rule, from rows of the state, token by token.
//   BACKWARD 0: dk_t -= a_t S dv_t;   S <- a_t S + k_t (b_t u_t)^T;   dq_t += S d_t       S [key_dim, value_dim]
//   BACKWARD 1, from the last token on, with the gradient G of S:
//               G <- G + q_t d_t^T;   dk_t += b_t G u_t;   G <- a_t (G - k_t dv_t^T)
//   qkv       [tokens, q_stride] f32, as in delta_rule.wgsl
//   work      [tokens, w_stride] f32, as delta_rule_backward_columns.wgsl leaves it
//   state     [sequences * heads * key_dim, s_stride] f32: S or G, in place
//   dqkv      [tokens, d_stride] f32: dq and dk in the places of queries and keys
//   dispatch  (parts of the rows of a head times key heads, sequences folded into (y, z)); 64 rows a workgroup
// Of the heads that share a key, `member` is worked on, and of their values those from `column` on: all is added to
// what is there, one dispatch after the other, so that sums have a fixed order. VALUES registers hold `columns` values.
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
    d_stride: u32,
    member: u32,
    column: u32,
    columns: u32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;              // [tokens, q_stride]
@group(0) @binding(2) var<storage, read> work: array<f32>;             // [tokens, w_stride]
@group(0) @binding(3) var<storage, read_write> state: array<f32>;      // [sequences * heads * key_dim, s_stride]
@group(0) @binding(4) var<storage, read_write> dqkv: array<f32>;       // [tokens, d_stride]

fn is_there(j: u32) -> bool {
    return EXACT == 1u || j < params.columns;
}

fn load(at: u32, j: u32) -> f32 {
    if is_there(j) { return work[at + j]; }
    return 0.0;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let sequence = folded_row(group, groups);
    let key_head = group.x % params.key_heads;
    let row = group.x / params.key_heads * 64u + index;
    if sequence >= params.sequences || row >= params.key_dim {
        return;
    }
    let head = key_head * (params.heads / params.key_heads) + params.member;
    let q_column = key_head * params.key_dim + row;
    let k_column = params.key_heads * params.key_dim + q_column;
    let width = params.heads * params.value_dim;
    let u_column = 2u * params.heads + head * params.value_dim + params.column;
    let of_head = (params.first_state + sequence) * params.heads + head;
    let own = (of_head * params.key_dim + row) * params.s_stride + params.column;
    var s: array<f32, VALUES>;
    for (var j = 0u; j < VALUES; j += 1u) {
        s[j] = 0.0;
        if params.begins == 0u && is_there(j) { s[j] = state[own + j]; }
    }
    for (var number = 0u; number < params.tokens; number += 1u) {
        let token = params.first + sequence * params.apart + select(number, params.tokens - 1u - number, BACKWARD == 1u);
        let own_work = token * params.w_stride;
        let kept = work[own_work + head];
        let beta = work[own_work + params.heads + head];
        let u = own_work + u_column;
        let dv = u + width;
        let d = dv + width;
        let q = qkv[token * params.q_stride + q_column];
        let k = qkv[token * params.q_stride + k_column];
        let to = token * params.d_stride;
        var sum = 0.0;
        if BACKWARD == 0u {
            var known = 0.0;
            for (var j = 0u; j < VALUES; j += 1u) {
                known += s[j] * load(dv, j);
                s[j] = kept * s[j] + k * (beta * load(u, j));
                sum += s[j] * load(d, j);
            }
            dqkv[to + q_column] += sum;
            dqkv[to + k_column] -= kept * known;
        } else {
            for (var j = 0u; j < VALUES; j += 1u) {
                s[j] += q * load(d, j);
                sum += s[j] * load(u, j);
                s[j] = kept * (s[j] - k * load(dv, j));
            }
            dqkv[to + k_column] += beta * sum;
        }
    }
    for (var j = 0u; j < VALUES; j += 1u) {
        if is_there(j) { state[own + j] = s[j]; }
    }
}
