// attention: causal attention with grouped queries, an optional sliding window and an online softmax; no [tokens,
// tokens] matrix anywhere.
//   out[t, h] = sum_j softmax_j(s(scale * q[t, h]·k[j, h / group])) v[j, h / group]   over the j <= t of t's sequence
//   with t - j < window, s as in shared/scores.wgsl; a head's sink, where there are any, is one more score in the sum
//   of its softmax
//   q         [tokens, q_stride] f32; query head h begins at q_column + h * HEAD_DIM
//   kv        [rows, kv_stride]  f32; key head h begins at k_column + h * HEAD_DIM, value head likewise
//   blocks    [blocks] (first token, tokens, row of the sequence's position 0 in kv, position of the first token);
//             then a sink of each head
//   out       [tokens, heads * head_dim]
//   dispatch  (key-value heads times parts of a group, blocks folded into (y, z))
// A workgroup takes 64 queries that share a key-value head: tokens of a block times heads of the group. Keys and values
// come through workgroup memory; tiles before the window or beyond the last query are never read. For every 32 keys:
// scores by a product as in gemm, 8 queries times 4 keys a thread; softmax with one query a thread; results by a
// product again. Blocks make batches ragged: sequences of any length lie one after the other, and nothing is padded.
const KEYS: u32 = 32u;
const DIMS: u32 = 16u;                                                 // coordinates at a time for the scores
const VALUES: u32 = 8u;                                                // values at a time for the results
const PARTS: u32 = (HEAD_DIM + 31u) / 32u;
const MASKED: f32 = -1e30;

var<workgroup> tile: array<vec4<f32>, 384>;                            // queries [dim][query / 4], then keys [dim][key / 4]; or values [key][dim / 4]
var<workgroup> weight: array<vec4<f32>, KEYS * 16u>;                   // [key][query / 4]: scores, then weights of the softmax
var<workgroup> factor: array<vec4<f32>, 16>;                           // [query / 4]: what results so far are multiplied by

// Where query r of this workgroup begins in q: token r / group_part of the block, head r % group_part of this part of
// the group. The last one there is stands for those beyond.
fn query_at(r: u32, block: vec4<u32>, first_head: u32, heads: u32) -> u32 {
    let token = block.x + min(r / params.group_part, block.y - 1u);
    return token * params.q_stride + params.q_column + (first_head + min(r % params.group_part, heads - 1u)) * HEAD_DIM;
}

fn key_at(key: u32, last: u32, block: vec4<u32>, kv_head: u32) -> u32 {
    return (block.z + min(key, last)) * params.kv_stride + params.k_column + kv_head * HEAD_DIM;
}

fn store(r: u32, part: u32, lane: u32, values: vec4<f32>, block: vec4<u32>, first_head: u32, heads: u32) {
    let token = r / params.group_part;
    let head = r % params.group_part;
    let dim = 4u * (8u * part + lane);
    if token >= block.y || head >= heads {
        return;
    }
    let at = (block.x + token) * params.out_stride + (first_head + head) * HEAD_DIM + dim;
    if dim < HEAD_DIM { out[at] = values.x; }
    if dim + 1u < HEAD_DIM { out[at + 1u] = values.y; }
    if dim + 2u < HEAD_DIM { out[at + 2u] = values.z; }
    if dim + 3u < HEAD_DIM { out[at + 3u] = values.w; }
}

fn store4(r: u32, part: u32, lane: u32, o: mat4x4<f32>, block: vec4<u32>, first_head: u32, heads: u32) {
    store(r, part, lane, o[0], block, first_head, heads);
    store(r + 1u, part, lane, o[1], block, first_head, heads);
    store(r + 2u, part, lane, o[2], block, first_head, heads);
    store(r + 3u, part, lane, o[3], block, first_head, heads);
}

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) thread: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let kv_head = workgroup.x % params.kv_heads;
    let part = workgroup.x / params.kv_heads;
    let order = workgroup.z * groups.y + workgroup.y;
    if order >= params.blocks {
        return;
    }
    // Late blocks have more keys than early ones: in turn, so that a device that deals out the grid in halves has the
    // same to do in both.
    let block = blocks[select(order / 2u, params.blocks - 1u - order / 2u, order % 2u == 1u)];
    let first_head = kv_head * params.group + part * params.group_part;
    let heads = min(params.group - part * params.group_part, params.group_part);
    let end = block.w + block.y;
    var begin = 0u;
    if params.window != 0u && block.w + 1u > params.window {
        begin = block.w + 1u - params.window;
    }
    // Of the one query whose softmax is this thread's.
    let position = block.w + index / params.group_part;
    let head = first_head + index % params.group_part;
    var highest = sink_of(head);
    var sum = f32(min(params.sinks, 1u));
    for (var first = begin; first < end; first += KEYS) {
        clear_scores();
        for (var dims = 0u; dims < HEAD_DIM; dims += DIMS) {
            // Four queries, or keys, and four coordinates a thread, turned so that each vec4 holds one coordinate.
            let group4 = index / 4u;
            let dim4 = index % 4u;
            let dim = dims + 4u * dim4;
            let queries = transpose(mat4x4(
                load_q(query_at(4u * group4, block, first_head, heads), dim),
                load_q(query_at(4u * group4 + 1u, block, first_head, heads), dim),
                load_q(query_at(4u * group4 + 2u, block, first_head, heads), dim),
                load_q(query_at(4u * group4 + 3u, block, first_head, heads), dim),
            ));
            for (var i = 0u; i < 4u; i += 1u) { tile[(4u * dim4 + i) * 16u + group4] = queries[i]; }
            if group4 < KEYS / 4u {
                let key = first + 4u * group4;
                let keys = transpose(mat4x4(
                    load_kv(key_at(key, end - 1u, block, kv_head), dim),
                    load_kv(key_at(key + 1u, end - 1u, block, kv_head), dim),
                    load_kv(key_at(key + 2u, end - 1u, block, kv_head), dim),
                    load_kv(key_at(key + 3u, end - 1u, block, kv_head), dim),
                ));
                for (var i = 0u; i < 4u; i += 1u) { tile[256u + (4u * dim4 + i) * 8u + group4] = keys[i]; }
            }
            workgroupBarrier();
            for (var d = 0u; d < DIMS; d += 1u) {
                add_to_scores(tile[d * 16u + thread.y], tile[d * 16u + 8u + thread.y], tile[256u + d * 8u + thread.x]);
            }
            workgroupBarrier();
        }
        let low = transpose(mat4x4(s0, s1, s2, s3));
        let high = transpose(mat4x4(s4, s5, s6, s7));
        for (var i = 0u; i < 4u; i += 1u) {
            weight[(4u * thread.x + i) * 16u + thread.y] = low[i];
            weight[(4u * thread.x + i) * 16u + 8u + thread.y] = high[i];
        }
        workgroupBarrier();
        let query4 = index / 4u;
        let lane = index % 4u;
        let before = highest;
        for (var key = 0u; key < KEYS; key += 1u) {
            let j = first + key;
            let seen = j < end && j <= position && (params.window == 0u || position - j < params.window);
            let score = select(MASKED, scored(params.scale * weight[key * 16u + query4][lane], head, position, j), seen);
            weight[key * 16u + query4][lane] = score;
            highest = max(highest, score);
        }
        let rescale = exp(before - highest);
        sum *= rescale;
        for (var key = 0u; key < KEYS; key += 1u) {
            let score = weight[key * 16u + query4][lane];
            let share = select(exp(score - highest), 0.0, score <= 0.5 * MASKED);
            weight[key * 16u + query4][lane] = share;
            sum += share;
        }
        factor[query4][lane] = rescale;
        workgroupBarrier();
        scale_results(factor[thread.y], factor[8u + thread.y]);
        for (var keys = 0u; keys < KEYS && first + keys < end; keys += VALUES) {
            for (var unit = index; unit < VALUES * 8u * PARTS; unit += 64u) {
                let j = first + keys + unit / (8u * PARTS);
                var value = vec4(0.0);
                if j < end {
                    value = load_kv((block.z + j) * params.kv_stride + params.v_column + kv_head * HEAD_DIM, 4u * (unit % (8u * PARTS)));
                }
                tile[unit] = value;
            }
            workgroupBarrier();
            for (var key = 0u; key < VALUES; key += 1u) {
                let at = (keys + key) * 16u + thread.y;
                add_to_results(weight[at], weight[at + 8u], key * 8u * PARTS + thread.x);
            }
            workgroupBarrier();
        }
    }
    factor[index / 4u][index % 4u] = 1.0 / sum;
    workgroupBarrier();
    scale_results(factor[thread.y], factor[8u + thread.y]);
    let r = 4u * thread.y;
    store4(r, 0u, thread.x, o00, block, first_head, heads);
    store4(r + 32u, 0u, thread.x, o10, block, first_head, heads);
    if PARTS > 1u { store4(r, 1u, thread.x, o01, block, first_head, heads); store4(r + 32u, 1u, thread.x, o11, block, first_head, heads); }
    if PARTS > 2u { store4(r, 2u, thread.x, o02, block, first_head, heads); store4(r + 32u, 2u, thread.x, o12, block, first_head, heads); }
    if PARTS > 3u { store4(r, 3u, thread.x, o03, block, first_head, heads); store4(r + 32u, 3u, thread.x, o13, block, first_head, heads); }
}
