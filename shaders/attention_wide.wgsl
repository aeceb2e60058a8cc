// attention_wide: attention (see attention.wgsl) for few queries at a time, spread over the coordinates of a head: decoding, and wide heads.
//   out[t, h] = sum_j softmax_j(scale * q[t, h]·k[j, h / group]) v[j, h / group]   over the j <= t of t's sequence with t - j < window
//   dispatch  (key-value heads times parts of a group, blocks folded into (y, z))
// A workgroup takes up to 4 * QUADS queries that share a key-value head. For the scores a thread has one key, for the values one coordinate.
struct Params {
    head_dim: u32,
    group: u32,
    group_part: u32,
    q_stride: u32,
    q_column: u32,
    q_head_stride: u32,
    kv_stride: u32,
    k_column: u32,
    k_head_stride: u32,
    v_column: u32,
    v_head_stride: u32,
    out_stride: u32,
    scale: f32,
    window: u32,
    blocks: u32,
    kv_heads: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;                // [tokens, q_stride]
@group(0) @binding(2) var<storage, read> kv: array<f32>;               // [rows, kv_stride]
@group(0) @binding(3) var<storage, read> blocks: array<vec4<u32>>;     // [blocks]
@group(0) @binding(4) var<storage, read_write> out: array<f32>;        // [tokens, out_stride]

const QUERIES: u32 = 4u * QUADS;
const PARTS: u32 = 64u / QUERIES;
const MASKED: f32 = -1e30;

var<workgroup> query: array<vec4<f32>, HEAD_DIM * QUADS>;              // [head_dim][queries]
var<workgroup> weight: array<vec4<f32>, 64 * QUADS>;                   // [key of the tile][queries]: scores, then softmax weights
var<workgroup> partial: array<f32, 64>;
var<workgroup> row_max: array<vec4<f32>, QUADS>;
var<workgroup> row_sum: array<vec4<f32>, QUADS>;
var<workgroup> rescale: array<vec4<f32>, QUADS>;

// Query r of this workgroup is token r / heads of the block, head r % heads of this part of the group.
struct Slot {
    token: u32,
    head: u32,
    valid: bool,
}

fn slot(r: u32, block: vec4<u32>, kv_head: u32, part: u32) -> Slot {
    let heads = min(params.group - part * params.group_part, params.group_part);
    let token = r / params.group_part;
    let head = r % params.group_part;
    return Slot(token, kv_head * params.group + part * params.group_part + head, token < block.y && head < heads);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let kv_head = group.x % params.kv_heads;
    let part = group.x / params.kv_heads;
    let block_index = group.z * groups.y + group.y;
    if block_index >= params.blocks {
        return;
    }
    let block = blocks[block_index];
    for (var i = index; i < params.head_dim * QUADS; i += 64u) {
        let dim = i / QUADS;
        var values = vec4(0.0);
        for (var lane = 0u; lane < 4u; lane += 1u) {
            let s = slot(4u * (i % QUADS) + lane, block, kv_head, part);
            if s.valid {
                values[lane] = params.scale * q[(block.x + s.token) * params.q_stride + params.q_column + s.head * params.q_head_stride + dim];
            }
        }
        query[i] = values;
    }
    if index < QUADS {
        row_max[index] = vec4(MASKED);
        row_sum[index] = vec4(0.0);
    }
    // The tile of keys begins where the first query's window does, and ends with the last query.
    let end = block.w + block.y;
    var begin = 0u;
    if params.window != 0u && block.w + 1u > params.window {
        begin = block.w + 1u - params.window;
    }
    var acc: array<vec4<f32>, QUADS * DIMS>;
    workgroupBarrier();
    for (var first = begin; first < end; first += 64u) {
        let keys = min(64u, end - first);
        // Scores: one key a thread.
        var scores: array<vec4<f32>, QUADS>;
        if index < keys {
            let at = (block.z + first + index) * params.kv_stride + params.k_column + kv_head * params.k_head_stride;
            for (var dim = 0u; dim < params.head_dim; dim += 1u) {
                let key = kv[at + dim];
                for (var quad = 0u; quad < QUADS; quad += 1u) {
                    scores[quad] += key * query[dim * QUADS + quad];
                }
            }
        }
        for (var quad = 0u; quad < QUADS; quad += 1u) {
            var visible = scores[quad];
            for (var lane = 0u; lane < 4u; lane += 1u) {
                let position = block.w + (4u * quad + lane) / params.group_part;
                let key = first + index;
                if key > position || (params.window != 0u && position - key >= params.window) || index >= keys {
                    visible[lane] = MASKED;
                }
            }
            weight[index * QUADS + quad] = visible;
        }
        workgroupBarrier();
        // Maximum of each query's scores: PARTS threads a query, QUERIES keys each.
        let r = index / PARTS;
        let first_key = index % PARTS * QUERIES;
        var highest = MASKED;
        for (var key = first_key; key < first_key + QUERIES; key += 1u) {
            highest = max(highest, weight[key * QUADS + r / 4u][r % 4u]);
        }
        partial[index] = highest;
        workgroupBarrier();
        if index < QUADS {
            var top = row_max[index];
            for (var lane = 0u; lane < 4u; lane += 1u) {
                for (var p = 0u; p < PARTS; p += 1u) {
                    top[lane] = max(top[lane], partial[(4u * index + lane) * PARTS + p]);
                }
            }
            rescale[index] = exp(row_max[index] - top);
            row_max[index] = top;
        }
        workgroupBarrier();
        for (var quad = 0u; quad < QUADS; quad += 1u) {
            let score = weight[index * QUADS + quad];
            weight[index * QUADS + quad] = select(exp(score - row_max[quad]), vec4(0.0), score <= vec4(0.5 * MASKED));
        }
        workgroupBarrier();
        if index < QUADS {
            var sum = row_sum[index] * rescale[index];
            for (var key = 0u; key < keys; key += 1u) {
                sum += weight[key * QUADS + index];
            }
            row_sum[index] = sum;
        }
        // Values: one coordinate a thread (DIMS of them if the head has more than 64).
        for (var i = 0u; i < DIMS; i += 1u) {
            let dim = index + 64u * i;
            if dim < params.head_dim {
                for (var quad = 0u; quad < QUADS; quad += 1u) {
                    acc[i * QUADS + quad] *= rescale[quad];
                }
                var at = (block.z + first) * params.kv_stride + params.v_column + kv_head * params.v_head_stride + dim;
                for (var key = 0u; key < keys; key += 1u) {
                    let value = kv[at];
                    at += params.kv_stride;
                    for (var quad = 0u; quad < QUADS; quad += 1u) {
                        acc[i * QUADS + quad] += value * weight[key * QUADS + quad];
                    }
                }
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < DIMS; i += 1u) {
        let dim = index + 64u * i;
        if dim < params.head_dim {
            for (var quad = 0u; quad < QUADS; quad += 1u) {
                let values = acc[i * QUADS + quad] / row_sum[quad];
                for (var lane = 0u; lane < 4u; lane += 1u) {
                    let s = slot(4u * quad + lane, block, kv_head, part);
                    if s.valid {
                        out[(block.x + s.token) * params.out_stride + s.head * params.head_dim + dim] = values[lane];
                    }
                }
            }
        }
    }
}
