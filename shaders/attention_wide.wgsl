// attention_wide: attention (see attention.wgsl) for few queries at a time, spread over the coordinates of a head:
// decoding, and wide heads.
//   out[t, h] = sum_j softmax_j(s(scale * q[t, h]·k[j, h / group])) v[j, h / group]   over the j <= t of t's sequence
//   with t - j < window, s as in shared/scores.wgsl, sinks as in attention.wgsl
//   dispatch  (key-value heads times parts of a group, blocks folded into (y, z))
// A workgroup takes the queries that queries_1.wgsl or queries_4.wgsl has room for, which share a key-value head. For
// the scores a thread has one key of 64; for the values four coordinates of every PARTS-th key.
const PARTS: u32 = 64u / HEAD4;

var<workgroup> weight: array<Each, 64>;                                // [key of the tile]: softmax weights
var<workgroup> reduced: array<Each, 72>;                               // [thread]: maxima, then sums; then of every eighth thread
var<workgroup> partial: array<Results, 64>;                            // [thread]

// Query r of this workgroup is token r / group_part of the block, head r % group_part of this part of the group.
fn load_query(r: u32, dim: u32, block: vec4<u32>, first_head: u32, heads: u32) -> f32 {
    let token = r / params.group_part;
    let head = r % params.group_part;
    if token >= block.y || head >= heads || dim >= HEAD_DIM {
        return 0.0;
    }
    let element = (block.x + token) * params.q_stride + params.q_column + (first_head + head) * HEAD_DIM + dim;
    return params.scale * q[element / 4u][element % 4u];
}

fn store_result(r: u32, dim: u32, values: vec4<f32>, block: vec4<u32>, first_head: u32, heads: u32) {
    let token = r / params.group_part;
    let head = r % params.group_part;
    if token >= block.y || head >= heads {
        return;
    }
    let at = (block.x + token) * params.out_stride + (first_head + head) * HEAD_DIM + dim;
    out[at] = values.x;
    if dim + 1u < HEAD_DIM { out[at + 1u] = values.y; }
    if dim + 2u < HEAD_DIM { out[at + 2u] = values.z; }
    if dim + 3u < HEAD_DIM { out[at + 3u] = values.w; }
}

// The largest value of all threads. In two steps, the second by every thread for itself: barriers are dear.
fn reduce_max(value: Each, index: u32) -> Each {
    reduced[index] = value;
    workgroupBarrier();
    if index < 8u {
        var eighth = reduced[index];
        for (var i = 1u; i < 8u; i += 1u) { eighth = max(eighth, reduced[8u * i + index]); }
        reduced[64u + index] = eighth;
    }
    workgroupBarrier();
    var all = reduced[64];
    for (var i = 1u; i < 8u; i += 1u) { all = max(all, reduced[64u + i]); }
    return all;
}

fn reduce_sum(value: Each, index: u32) -> Each {
    reduced[index] = value;
    workgroupBarrier();
    if index < 8u {
        var eighth = reduced[index];
        for (var i = 1u; i < 8u; i += 1u) { eighth += reduced[8u * i + index]; }
        reduced[64u + index] = eighth;
    }
    workgroupBarrier();
    var all = reduced[64];
    for (var i = 1u; i < 8u; i += 1u) { all += reduced[64u + i]; }
    return all;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let kv_head = workgroup.x % params.kv_heads;
    let part = workgroup.x / params.kv_heads;
    let block_index = workgroup.z * groups.y + workgroup.y;
    if block_index >= params.blocks {
        return;
    }
    let block = blocks[block_index];
    let first_head = kv_head * params.group + part * params.group_part;
    let heads = min(params.group - part * params.group_part, params.group_part);
    load_queries(index, block, first_head, heads);
    let positions = positions_of(block);
    let end = block.w + block.y;
    var begin = 0u;
    if params.window != 0u && block.w + 1u > params.window {
        begin = block.w + 1u - params.window;
    }
    // Where this thread's coordinates begin, and which keys of a tile it adds up; threads beyond the last part have
    // none.
    let dim = 4u * (index % HEAD4);
    let own = index / HEAD4;
    var top = sinks_of(first_head);
    // Of all threads, the first one counts the sinks.
    var sum = Each(f32(select(0u, min(params.sinks, 1u), index == 0u)));
    var acc = Results();
    workgroupBarrier();
    for (var first = begin; first < end; first += 64u) {
        let keys = min(64u, end - first);
        var score = Each(MASKED);
        if index < keys {
            let at = (block.z + first + index) * params.kv_stride + params.k_column + kv_head * HEAD_DIM;
            score = Each();
            for (var dim4 = 0u; dim4 < HEAD4; dim4 += 1u) {
                score += products(dim4, load_kv(at, 4u * dim4));
            }
            score = scored_each(score, first_head, positions, first + index);
            let key = Place(first + index);
            score = select(score, Each(MASKED), key > positions);
            if params.window != 0u {
                score = select(score, Each(MASKED), key + Place(params.window) <= positions);
            }
        }
        let before = top;
        top = max(top, reduce_max(score, index));
        let rescale = exp(before - top);
        let share = select(exp(score - top), Each(), score <= Each(0.5 * MASKED));
        sum = sum * rescale + share;
        weight[index] = share;
        workgroupBarrier();
        acc = scaled(acc, rescale);
        if own < PARTS {
            for (var key = own; key < keys; key += PARTS) {
                let value = load_kv((block.z + first + key) * params.kv_stride + params.v_column + kv_head * HEAD_DIM, dim);
                acc = weighted(acc, weight[key], value);
            }
        }
        workgroupBarrier();
    }
    partial[index] = acc;
    let sums = reduce_sum(sum, index);
    if index < HEAD4 {
        var total = partial[index];
        for (var p = 1u; p < PARTS; p += 1u) {
            total += partial[p * HEAD4 + index];
        }
        store_results(scaled(total, Each(1.0) / sums), dim, block, first_head, heads);
    }
}
