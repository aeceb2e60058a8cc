// attention_backward_sums: the gradients of queries, or of keys or values, from what attention_backward_shares.wgsl
// has made of a block of queries.
//   BY_KEYS = 0   out[query + t, h]           = sum_j shares[half + h, t, j] right[key + j, h / group]
//   BY_KEYS = 1   out[key + j, h / group]    += sum_{h of the group, t} shares[half + h, t, j] right[query + t, h]
//   right     [tokens, right_stride] f32; keys: those of the run's head h begin at right_column + h / group * head_dim;
//             queries, or gradients of results: at right_column + h * head_dim
//   out       [tokens, out_stride] f32; heads begin at out_column, as in right
//   dispatch  (tiles of the head, tiles of queries or keys, heads or key-value heads)
// Queries in their order, head by head: the sums are always the same ones.
@group(0) @binding(1) var<storage, read> shares: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

const CHUNK4: u32 = 16u;
const WHOLE4: u32 = 4u;                                                // groups of steps that every walk takes whole

var<private> own: u32;                                                 // the head, or key-value head
var<private> head: u32;                                                // the head whose shares are added
var<private> begin4: u32;                                              // steps before the first

fn left(row: u32, step4: u32) -> mat4x4<f32> {
    if BY_KEYS == 1u {
        let at = (params.half + head * params.rows + 4u * (begin4 + step4)) * params.stride4
            + min(row / 4u, params.stride4 - 1u);
        return mat4x4(
            shares[at],
            shares[at + params.stride4],
            shares[at + 2u * params.stride4],
            shares[at + 3u * params.stride4],
        );
    }
    let first = params.half + head * params.rows + min(row, params.rows - 4u);
    let at = first * params.stride4 + begin4 + step4;
    return transpose(mat4x4(
        shares[at],
        shares[at + params.stride4],
        shares[at + 2u * params.stride4],
        shares[at + 3u * params.stride4],
    ));
}

fn right_at(step: u32) -> u32 {
    if BY_KEYS == 1u {
        let token = params.query + min(step, params.queries - 1u);
        return token * params.right_stride + params.right_column + head * params.head_dim;
    }
    let token = params.key + min(step, params.keys - 1u);
    return token * params.right_stride + params.right_column + head / params.group * params.head_dim;
}

fn right(column: u32, step4: u32) -> mat4x4<f32> {
    let dim = min(column, (params.head_dim - 1u) / 4u * 4u);
    let step = 4u * (begin4 + step4);
    return mat4x4(
        load_right(right_at(step), dim),
        load_right(right_at(step + 1u), dim),
        load_right(right_at(step + 2u), dim),
        load_right(right_at(step + 3u), dim),
    );
}

// Ends a chunk: one running sum over many tokens would lose digits. Chunks are the same whatever the tiles.
fn after(step4: u32) {
    if (begin4 + step4) % CHUNK4 == CHUNK4 - 1u { fold_block(); }
}

fn store4(row: u32, column: u32, values: vec4<f32>) {
    if row >= select(params.queries, params.keys, BY_KEYS == 1u) {
        return;
    }
    let token = select(params.query, params.key, BY_KEYS == 1u) + row;
    let at = token * params.out_stride + params.out_column + own * params.head_dim + column;
    for (var i = 0u; i < 4u; i += 1u) {
        if column + i < params.head_dim {
            var value = values[i];
            if BY_KEYS == 1u { value += out[at + i]; }
            out[at + i] = value;
        }
    }
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) thread: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let first_row = 4u * ROWS4 * group.y;
    let first_column = 4u * COLUMNS4 * group.x;
    own = group.z;
    // What lies between the first of its keys that a tile sees and the last, or the first query that sees it.
    if BY_KEYS == 1u {
        let key = params.key + first_row;
        begin4 = (max(key, params.query) - params.query) / 4u / WHOLE4 * WHOLE4;
        var end = params.queries;
        if params.window != 0u {
            end = min(end, max(key + 4u * ROWS4 + params.window, params.query + 1u) - params.query - 1u);
        }
        let end4 = max((end + 3u) / 4u, begin4);
        for (var part = 0u; part < params.group; part += 1u) {
            head = own * params.group + part;
            walk(thread.xy, index, first_row, first_column, end4 - begin4);
            fold_block();
        }
    } else {
        head = own;
        let query = params.query + first_row;
        let end = min(params.keys, query + 4u * ROWS4 - params.key);
        if params.window != 0u {
            begin4 = (max(query + 1u, params.key + params.window) - params.key - params.window) / 4u / WHOLE4 * WHOLE4;
        }
        walk(thread.xy, index, first_row, first_column, (end + 3u) / 4u - begin4);
        fold_block();
    }
    store_block(block_of(thread.xy, first_row, first_column));
}
