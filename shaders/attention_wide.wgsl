// attention_wide: attention (see attention.wgsl) for few queries at a time, spread over the coordinates of a head: decoding, and wide heads.
//   out[t, h] = sum_j softmax_j(scale * q[t, h]·k[j, h / group]) v[j, h / group]   over the j <= t of t's sequence with t - j < window
//   dispatch  (key-value heads times parts of a group, blocks folded into (y, z))
// A workgroup takes up to 4 queries that share a key-value head, the lanes of every vec4 below. For the scores a thread has one key of 64;
// for the values four coordinates of every PARTS-th key.
const HEAD4: u32 = (HEAD_DIM + 3u) / 4u;
const PARTS: u32 = 64u / HEAD4;
const MASKED: f32 = -1e30;

var<workgroup> query: array<vec4<f32>, 4u * HEAD4>;                    // [head_dim], four queries each
var<workgroup> weight: array<vec4<f32>, 64>;                           // [key of the tile]: softmax weights
var<workgroup> highest: array<vec4<f32>, 64>;                          // [thread]: maxima, then sums
var<workgroup> partial: array<mat4x4<f32>, 64>;                        // [thread]: a column a query, four coordinates

// Query r of this workgroup is token r / group_part of the block, head r % group_part of this part of the group.
fn load_query(r: u32, dim: u32, block: vec4<u32>, first_head: u32, heads: u32) -> f32 {
    let token = r / params.group_part;
    let head = r % params.group_part;
    if token >= block.y || head >= heads || dim >= HEAD_DIM {
        return 0.0;
    }
    let element = (block.x + token) * params.q_stride + params.q_column + (first_head + head) * params.q_head_stride + dim;
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
    for (var dim = index; dim < 4u * HEAD4; dim += 64u) {
        query[dim] = vec4(
            load_query(0u, dim, block, first_head, heads),
            load_query(1u, dim, block, first_head, heads),
            load_query(2u, dim, block, first_head, heads),
            load_query(3u, dim, block, first_head, heads),
        );
    }
    let positions = vec4(block.w) + vec4(0u, 1u, 2u, 3u) / vec4(params.group_part);
    let end = block.w + block.y;
    var begin = 0u;
    if params.window != 0u && block.w + 1u > params.window {
        begin = block.w + 1u - params.window;
    }
    // Where this thread's coordinates begin, and which keys of a tile it adds up; threads beyond the last part have none.
    let dim = 4u * (index % HEAD4);
    let own = index / HEAD4;
    var top = vec4(MASKED);
    var sum = vec4(0.0);
    var acc = mat4x4<f32>();
    workgroupBarrier();
    for (var first = begin; first < end; first += 64u) {
        let keys = min(64u, end - first);
        var score = vec4(MASKED);
        if index < keys {
            let at = (block.z + first + index) * params.kv_stride + params.k_column + kv_head * params.k_head_stride;
            score = vec4(0.0);
            for (var dim = 0u; dim < HEAD_DIM; dim += 4u) {
                let key = load_kv(at, dim);
                score += key.x * query[dim] + key.y * query[dim + 1u] + key.z * query[dim + 2u] + key.w * query[dim + 3u];
            }
            let key = vec4(first + index);
            score = select(score, vec4(MASKED), key > positions);
            if params.window != 0u {
                score = select(score, vec4(MASKED), key + vec4(params.window) <= positions);
            }
        }
        highest[index] = score;
        workgroupBarrier();
        for (var half = 32u; half > 0u; half /= 2u) {
            if index < half {
                highest[index] = max(highest[index], highest[index + half]);
            }
            workgroupBarrier();
        }
        let before = top;
        top = max(top, highest[0]);
        let rescale = exp(before - top);
        let share = select(exp(score - top), vec4(0.0), score <= vec4(0.5 * MASKED));
        sum = sum * rescale + share;
        weight[index] = share;
        workgroupBarrier();
        acc[0] *= rescale.x;
        acc[1] *= rescale.y;
        acc[2] *= rescale.z;
        acc[3] *= rescale.w;
        if own < PARTS {
            for (var key = own; key < keys; key += PARTS) {
                let value = load_kv((block.z + first + key) * params.kv_stride + params.v_column + kv_head * params.v_head_stride, dim);
                let share = weight[key];
                acc[0] += share.x * value;
                acc[1] += share.y * value;
                acc[2] += share.z * value;
                acc[3] += share.w * value;
            }
        }
        workgroupBarrier();
    }
    highest[index] = sum;
    partial[index] = acc;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if index < half {
            highest[index] += highest[index + half];
        }
        workgroupBarrier();
    }
    if index < HEAD4 {
        var total = partial[index];
        for (var p = 1u; p < PARTS; p += 1u) {
            total += partial[p * HEAD4 + index];
        }
        let sums = highest[0];
        store_result(0u, dim, total[0] / sums.x, block, first_head, heads);
        store_result(1u, dim, total[1] / sums.y, block, first_head, heads);
        store_result(2u, dim, total[2] / sums.z, block, first_head, heads);
        store_result(3u, dim, total[3] / sums.w, block, first_head, heads);
    }
}
