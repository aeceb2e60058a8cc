// attention_backward_whole: the gradients of attention's queries, keys and values at once; no [tokens, tokens] matrix
// anywhere.
//   dq, dk and dv as in attention_backward_queries.wgsl and attention_backward_keys.wgsl
//   qkv, dqkv [tokens, stride] f32; query head h begins at q_column + h * head_dim, key and value heads likewise
//   d         [tokens, heads * head_dim] f32, the gradient of attention's result
//   dispatch  (key-value heads), each for `blocks` blocks of 32 keys of the sequence first .. end, from first_block on
// One workgroup takes all keys of a head, block by block, so that nothing else adds to its queries: products and shares
// are worked out once, not once for queries and once for keys. That is fastest where workgroups run one after the
// other anyhow. What is added to must be zero before.
var<workgroup> share: array<vec4<f32>, 256>;                           // [query][key / 4]
var<workgroup> weight: array<vec4<f32>, 256>;                          // [query][key / 4]: gradients of scores

fn keep(at: u32, both: Shares) {
    share[at] = both.share;
    weight[at] = both.gradient;
}

// The gradients of 32 queries from what 32 keys give them: a thread has queries where it had them in the products.
fn add_queries(thread: vec2<u32>, head: u32, query: u32, key: u32) {
    let keys = min(ROWS, params.end - key);
    let own = 32u * thread.y;
    for (var dim = 4u * thread.x; dim < params.head_dim; dim += ROWS) {
        var sums = mat4x4<f32>();
        for (var j4 = 0u; 4u * j4 < keys; j4 += 1u) {
            // Of four keys, for each of the thread's queries; those beyond the sequence have no weight.
            let turned = transpose(mat4x4(
                weight[own + j4], weight[own + 8u + j4], weight[own + 16u + j4], weight[own + 24u + j4],
            ));
            for (var j = 0u; j < 4u; j += 1u) {
                let four = turned[j];
                let value = load_qkv(key_at(key + 4u * j4 + j, head), dim);
                sums = mat4x4(
                    fma(four.xxxx, value, sums[0]), fma(four.yyyy, value, sums[1]),
                    fma(four.zzzz, value, sums[2]), fma(four.wwww, value, sums[3]),
                );
            }
        }
        for (var i = 0u; i < 4u; i += 1u) {
            let row = query + 4u * thread.y + i;
            if row < params.end { store(query_at(row, head), dim, sums[i], true); }
        }
    }
}

// The gradients of 32 keys and values from what 32 queries give them: a thread has keys where it had queries of the
// products.
fn add_keys(thread: vec2<u32>, head: u32, query: u32, key: u32) {
    let queries = min(ROWS, params.end - query);
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
            let row = key + 4u * thread.y + i;
            if row < params.end {
                store(key_at(row, head), dim, keys[i], true);
                store(value_at(row, head), dim, values[i], true);
            }
        }
    }
}

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) thread: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    for (var block = params.first_block; block < params.first_block + params.blocks; block += 1u) {
        let key = params.first + ROWS * block;
        let x = key + 4u * thread.x;
        var last = params.end;
        if params.window != 0u { last = min(last, key + ROWS - 1u + params.window); }
        for (var head = group.x * params.group; head < (group.x + 1u) * params.group; head += 1u) {
            for (var query = key; query < last; query += ROWS) {
                multiply(thread.xy, index, head, query, key);
                let y = query + 4u * thread.y;
                let at = 32u * thread.y + thread.x;
                keep(at, shares(y, x, head, s0, t0));
                keep(at + 8u, shares(y + 1u, x, head, s1, t1));
                keep(at + 16u, shares(y + 2u, x, head, s2, t2));
                keep(at + 24u, shares(y + 3u, x, head, s3, t3));
                workgroupBarrier();
                add_queries(thread.xy, head, query, key);
                add_keys(thread.xy, head, query, key);
            }
        }
    }
}
