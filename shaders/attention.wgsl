// attention: causal attention with grouped queries, an optional sliding window and an online softmax; no [tokens, tokens] matrix anywhere.
//   out[t, h] = sum_j softmax_j(scale * q[t, h]·k[j, h / group]) v[j, h / group]   over the j <= t of t's sequence with t - j < window
//   q         [tokens, q_stride] f32; query head h begins at q_column + h * q_head_stride
//   kv        [rows, kv_stride]  f32; key head h begins at k_column + h * k_head_stride, value head likewise
//   blocks    [blocks] (first token, tokens, row of the sequence's position 0 in kv, position of the first token)
//   out       [tokens, heads * head_dim]
//   dispatch  (key-value heads times parts of a group, blocks folded into (y, z))
// A workgroup takes 64 queries that share a key-value head, one a thread: tokens of a block times heads of the group. Keys and values come
// through workgroup memory, KEYS at a time; tiles behind the window or beyond the last query are never read. Blocks make batches ragged:
// sequences of any length lie one behind the other, and nothing is padded.
const HEAD4: u32 = (HEAD_DIM + 3u) / 4u;
const MASKED: f32 = -1e30;

var<workgroup> tile_k: array<vec4<f32>, KEYS * HEAD4>;                 // [key][head_dim]
var<workgroup> tile_v: array<vec4<f32>, KEYS * HEAD4>;                 // [key][head_dim]

// Four coordinates of a key or value; zero beyond the head.
fn load_kv(at: u32, dim: u32) -> vec4<f32> {
    var value = vec4(kv[at], 0.0, 0.0, 0.0);
    if dim + 1u < HEAD_DIM { value.y = kv[at + 1u]; }
    if dim + 2u < HEAD_DIM { value.z = kv[at + 2u]; }
    if dim + 3u < HEAD_DIM { value.w = kv[at + 3u]; }
    return value;
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
    // This thread's query.
    let token = index / params.group_part;
    let head_in_group = part * params.group_part + index % params.group_part;
    let head = kv_head * params.group + head_in_group;
    let valid = token < block.y && head_in_group < params.group;
    let position = block.w + token;
    var query: array<vec4<f32>, HEAD4>;
    var acc: array<vec4<f32>, HEAD4>;
    if valid {
        let at = (block.x + token) * params.q_stride + params.q_column + head * params.q_head_stride;
        for (var i = 0u; i < HEAD4; i += 1u) {
            var value = vec4(q[at + 4u * i], 0.0, 0.0, 0.0);
            if 4u * i + 1u < HEAD_DIM { value.y = q[at + 4u * i + 1u]; }
            if 4u * i + 2u < HEAD_DIM { value.z = q[at + 4u * i + 2u]; }
            if 4u * i + 3u < HEAD_DIM { value.w = q[at + 4u * i + 3u]; }
            query[i] = params.scale * value;
        }
    }
    let end = block.w + block.y;
    var begin = 0u;
    if params.window != 0u && block.w + 1u > params.window {
        begin = block.w + 1u - params.window;
    }
    var highest = MASKED;
    var sum = 0.0;
    for (var first = begin; first < end; first += KEYS) {
        let keys = min(KEYS, end - first);
        workgroupBarrier();
        for (var i = index; i < KEYS * HEAD4; i += 64u) {
            let key = i / HEAD4;
            let dim = 4u * (i % HEAD4);
            var k = vec4(0.0);
            var v = vec4(0.0);
            if key < keys {
                let row = (block.z + first + key) * params.kv_stride;
                k = load_kv(row + params.k_column + kv_head * params.k_head_stride + dim, dim);
                v = load_kv(row + params.v_column + kv_head * params.v_head_stride + dim, dim);
            }
            tile_k[i] = k;
            tile_v[i] = v;
        }
        workgroupBarrier();
        var scores: array<f32, KEYS>;
        var top = highest;
        for (var key = 0u; key < keys; key += 1u) {
            var products = vec4(0.0);
            for (var i = 0u; i < HEAD4; i += 1u) {
                products += query[i] * tile_k[key * HEAD4 + i];
            }
            let at = first + key;
            let hidden = at > position || (params.window != 0u && position - at >= params.window);
            let score = select((products.x + products.y) + (products.z + products.w), MASKED, hidden);
            scores[key] = score;
            top = max(top, score);
        }
        let rescale = exp(highest - top);
        highest = top;
        sum *= rescale;
        for (var i = 0u; i < HEAD4; i += 1u) {
            acc[i] *= rescale;
        }
        for (var key = 0u; key < keys; key += 1u) {
            let weight = select(exp(scores[key] - top), 0.0, scores[key] <= 0.5 * MASKED);
            sum += weight;
            for (var i = 0u; i < HEAD4; i += 1u) {
                acc[i] += weight * tile_v[key * HEAD4 + i];
            }
        }
    }
    if valid {
        let at = (block.x + token) * params.out_stride + head * HEAD_DIM;
        for (var i = 0u; i < HEAD4; i += 1u) {
            let value = acc[i] / sum;
            out[at + 4u * i] = value.x;
            if 4u * i + 1u < HEAD_DIM { out[at + 4u * i + 1u] = value.y; }
            if 4u * i + 2u < HEAD_DIM { out[at + 4u * i + 2u] = value.z; }
            if 4u * i + 3u < HEAD_DIM { out[at + 4u * i + 3u] = value.w; }
        }
    }
}
