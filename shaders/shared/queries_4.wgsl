// Up to four queries a workgroup of attention_wide, the components of a vec4 each.
alias Each = vec4<f32>;
alias Place = vec4<u32>;
alias Results = mat4x4<f32>;                                           // a column a query, four coordinates

const HEAD4: u32 = (HEAD_DIM + 3u) / 4u;
const MASKED: f32 = -1e30;

var<workgroup> query: array<vec4<f32>, 4u * HEAD4>;                    // [head_dim], four queries each

fn load_queries(index: u32, block: vec4<u32>, first_head: u32, heads: u32) {
    for (var dim = index; dim < 4u * HEAD4; dim += 64u) {
        query[dim] = vec4(
            load_query(0u, dim, block, first_head, heads),
            load_query(1u, dim, block, first_head, heads),
            load_query(2u, dim, block, first_head, heads),
            load_query(3u, dim, block, first_head, heads),
        );
    }
}

// The position of each query in its sequence.
fn positions_of(block: vec4<u32>) -> Place {
    return vec4(block.w) + vec4(0u, 1u, 2u, 3u) / vec4(params.group_part);
}

// Four coordinates of the products of a key with each query.
fn products(dim4: u32, key: vec4<f32>) -> Each {
    return key.x * query[4u * dim4] + key.y * query[4u * dim4 + 1u] + key.z * query[4u * dim4 + 2u] + key.w * query[4u * dim4 + 3u];
}

fn scored_each(score: Each, first_head: u32, positions: Place, key: u32) -> Each {
    let heads = vec4(first_head) + vec4(0u, 1u, 2u, 3u) % vec4(params.group_part);
    return vec4(
        scored(score.x, heads.x, positions.x, key),
        scored(score.y, heads.y, positions.y, key),
        scored(score.z, heads.z, positions.z, key),
        scored(score.w, heads.w, positions.w, key),
    );
}

// The logit of each query's head that stands for no key.
fn sinks_of(first_head: u32) -> Each {
    let heads = vec4(first_head) + vec4(0u, 1u, 2u, 3u) % vec4(params.group_part);
    return vec4(sink_of(heads.x), sink_of(heads.y), sink_of(heads.z), sink_of(heads.w));
}

fn scaled(results: Results, factor: Each) -> Results {
    return mat4x4(factor.x * results[0], factor.y * results[1], factor.z * results[2], factor.w * results[3]);
}

fn weighted(results: Results, share: Each, value: vec4<f32>) -> Results {
    return mat4x4(
        results[0] + share.x * value,
        results[1] + share.y * value,
        results[2] + share.z * value,
        results[3] + share.w * value,
    );
}

fn store_results(results: Results, dim: u32, block: vec4<u32>, first_head: u32, heads: u32) {
    for (var r = 0u; r < 4u; r += 1u) { store_result(r, dim, results[r], block, first_head, heads); }
}
