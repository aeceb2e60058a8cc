// The shares of keys in the results of queries, worked out again from attention_statistics.wgsl, and the gradients of
// their scores.
@group(0) @binding(3) var<storage, read> statistics: array<vec2<f32>>; // [tokens, heads]
@group(0) @binding(4) var<storage, read_write> dqkv: array<f32>;       // [tokens, stride]

struct Shares {
    share: vec4<f32>,
    gradient: vec4<f32>,
}

// Of a query with four keys, whose products are s and t.
fn shares(query: u32, key: u32, head: u32, s: vec4<f32>, t: vec4<f32>) -> Shares {
    let found = statistics[min(query, params.end - 1u) * params.statistics_stride2 + head];
    let products = params.scale * s;
    let share = select(vec4(0.0), exp(scored4(products, head, query, key) - vec4(found.x)), seen(query, key));
    var slope = vec4(1.0);
    if params.softcap != 0.0 {
        let caps = vec4(capped(products.x), capped(products.y), capped(products.z), capped(products.w)) / params.softcap;
        slope -= caps * caps;
    }
    return Shares(share, params.scale * share * slope * (t - vec4(found.y)));
}

// Four coordinates of a gradient, in place of what was there before or added to it.
fn store(at: u32, dim: u32, values: vec4<f32>, add: bool) {
    for (var i = 0u; i < 4u; i += 1u) {
        if dim + i < params.head_dim {
            var value = values[i];
            if add { value += dqkv[at + dim + i]; }
            dqkv[at + dim + i] = value;
        }
    }
}
