// attention_backward_queries: the gradient of attention's queries; no [tokens, tokens] matrix anywhere.
//   dq[t, h] = scale * sum_j p[t, j] s' (d[t, h]·v[j, h / group] - D[t, h]) k[j, h / group],  p[t, j] = exp(s(scale *
//   q[t, h]·k[j, h / group]) - L[t, h])
//   with s and s' (which is 1 but for a soft-cap) as in shared/scores.wgsl, over the j that t sees, with (L, D) as
//   attention_statistics.wgsl gives them
//   qkv, dqkv [tokens, stride] f32; query head h begins at q_column + h * head_dim, key and value heads likewise
//   d         [tokens, heads * head_dim] f32, the gradient of attention's result
//   dispatch  (heads, blocks of 32 queries of the sequence first .. end, from first_block on)
// The sum stays in memory between two blocks of keys: heads of any width go through the same registers.
var<workgroup> weight: array<vec4<f32>, 256>;                          // [key][query / 4]: gradients of scores

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) thread: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let head = group.x;
    let query = params.first + ROWS * (params.first_block + group.y);
    let last = min(query + ROWS, params.end);
    let y = query + 4u * thread.y;
    var first = params.first;
    if params.window != 0u { first = max(first, max(query + 1u, params.window) - params.window); }
    for (var key = first; key < last; key += ROWS) {
        multiply(thread.xy, index, head, query, key);
        let x = key + 4u * thread.x;
        let turned = transpose(mat4x4(
            shares(y, x, head, s0, t0).gradient,
            shares(y + 1u, x, head, s1, t1).gradient,
            shares(y + 2u, x, head, s2, t2).gradient,
            shares(y + 3u, x, head, s3, t3).gradient,
        ));
        let at = 32u * thread.x + thread.y;
        weight[at] = turned[0];
        weight[at + 8u] = turned[1];
        weight[at + 16u] = turned[2];
        weight[at + 24u] = turned[3];
        workgroupBarrier();
        let keys = min(ROWS, last - key);
        for (var dim = 4u * thread.x; dim < params.head_dim; dim += ROWS) {
            var sums = mat4x4<f32>();
            for (var j = 0u; j < keys; j += 1u) {
                let four = weight[8u * j + thread.y];
                let value = load_qkv(key_at(key + j, head), dim);
                sums = mat4x4(
                    fma(four.xxxx, value, sums[0]), fma(four.yyyy, value, sums[1]),
                    fma(four.zzzz, value, sums[2]), fma(four.wwww, value, sums[3]),
                );
            }
            let add = key > first;
            if y < params.end { store(query_at(y, head), dim, sums[0], add); }
            if y + 1u < params.end { store(query_at(y + 1u, head), dim, sums[1], add); }
            if y + 2u < params.end { store(query_at(y + 2u, head), dim, sums[2], add); }
            if y + 3u < params.end { store(query_at(y + 3u, head), dim, sums[3], add); }
        }
    }
}
