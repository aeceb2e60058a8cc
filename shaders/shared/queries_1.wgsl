// One query a workgroup of attention_wide: decoding where no heads share keys. Room for more would only be work for
// nothing.
alias Each = f32;
alias Place = u32;
alias Results = vec4<f32>;                                             // four coordinates

const HEAD4: u32 = (HEAD_DIM + 3u) / 4u;
const MASKED: f32 = -1e30;

var<workgroup> query: array<vec4<f32>, HEAD4>;                         // [head_dim / 4]

fn load_queries(index: u32, block: vec4<u32>, first_head: u32, heads: u32) {
    if index < HEAD4 {
        query[index] = vec4(
            load_query(0u, 4u * index, block, first_head, heads),
            load_query(0u, 4u * index + 1u, block, first_head, heads),
            load_query(0u, 4u * index + 2u, block, first_head, heads),
            load_query(0u, 4u * index + 3u, block, first_head, heads),
        );
    }
}

// The position of the query in its sequence.
fn positions_of(block: vec4<u32>) -> Place {
    return block.w;
}

// Four coordinates of the product of a key with the query.
fn products(dim4: u32, key: vec4<f32>) -> Each {
    return dot(key, query[dim4]);
}

fn scored_each(score: Each, first_head: u32, positions: Place, key: u32) -> Each {
    return scored(score, first_head, positions, key);
}

// The logit of the query's head that stands for no key.
fn sinks_of(first_head: u32) -> Each {
    return sink_of(first_head);
}

fn scaled(results: Results, factor: Each) -> Results {
    return factor * results;
}

fn weighted(results: Results, share: Each, value: vec4<f32>) -> Results {
    return results + share * value;
}

fn store_results(results: Results, dim: u32, block: vec4<u32>, first_head: u32, heads: u32) {
    store_result(0u, dim, results, block, first_head, heads);
}
