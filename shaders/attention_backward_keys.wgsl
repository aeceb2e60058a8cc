// attention_backward_keys: the gradients of attention's keys and values; no [tokens, tokens] matrix anywhere.
//   dv[j, g] = sum_{h, t} p[t, j] d[t, h];   dk[j, g] = scale * sum_{h, t} p[t, j] s' (d[t, h]·v[j, g] - D[t, h])
//   q[t, h]
//   over the query heads h of key-value head g and the t that see j, with p and D as in attention_backward_queries.wgsl
//   qkv, dqkv [tokens, stride] f32; query head h begins at q_column + h * head_dim, key and value heads likewise
//   d         [tokens, heads * head_dim] f32, the gradient of attention's result
//   dispatch  (key-value heads, blocks of 32 keys of the sequence first .. end, from first_block on), for query head
//             `part` of each group, in their order
// Queries in their order, head by head: the sums are always the same ones. They stay in memory between two blocks of
// queries, and between heads.
var<workgroup> share: array<vec4<f32>, 256>;                           // [query][key / 4]
var<workgroup> weight: array<vec4<f32>, 256>;                          // [query][key / 4]: gradients of scores

fn keep(at: u32, both: Shares) {
    share[at] = both.share;
    weight[at] = both.gradient;
}

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) thread: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let key = params.first + ROWS * (params.first_block + group.y);
    let x = key + 4u * thread.x;
    // Of the results, a thread has keys where it had queries of the products.
    let own = key + 4u * thread.y;
    var last = params.end;
    if params.window != 0u { last = min(last, key + ROWS - 1u + params.window); }
    let head = group.x * params.group + params.part;
    for (var query = key; query < last; query += ROWS) {
        multiply(thread.xy, index, head, query, key);
        let y = query + 4u * thread.y;
        let at = 32u * thread.y + thread.x;
        keep(at, shares(y, x, head, s0, t0));
        keep(at + 8u, shares(y + 1u, x, head, s1, t1));
        keep(at + 16u, shares(y + 2u, x, head, s2, t2));
        keep(at + 24u, shares(y + 3u, x, head, s3, t3));
        workgroupBarrier();
        let add = query > key || params.part > 0u;
        let queries = min(ROWS, last - query);
        for (var dim = 4u * thread.x; dim < params.head_dim; dim += ROWS) {
            var keys = mat4x4<f32>();
            var values = mat4x4<f32>();
            for (var i = 0u; i < queries; i += 1u) {
                let k = weight[8u * i + thread.y];
                let q = load_qkv(query_at(query + i, head), dim);
                keys = mat4x4(fma(k.xxxx, q, keys[0]), fma(k.yyyy, q, keys[1]), fma(k.zzzz, q, keys[2]), fma(k.wwww, q, keys[3]));
                let v = share[8u * i + thread.y];
                let d = load_d(gradient_at(query + i, head), dim);
                values = mat4x4(fma(v.xxxx, d, values[0]), fma(v.yyyy, d, values[1]), fma(v.zzzz, d, values[2]), fma(v.wwww, d, values[3]));
            }
            for (var i = 0u; i < 4u; i += 1u) {
                if own + i < params.end {
                    store(key_at(own + i, head), dim, keys[i], add);
                    store(value_at(own + i, head), dim, values[i], add);
                }
            }
        }
    }
}
