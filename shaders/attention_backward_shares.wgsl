// attention_backward_shares: from the products of each query with its keys, and of the gradient g of its result with
// their values, the shares of the keys and the gradients of their products.
//   p[t, j] = softmax_j(s(scale * q[t]·k[j]))   over the keys that t sees, s as in shared/scores.wgsl, s' its slope
//   e[t, j] = scale * p[t, j] * s' * (g[t]·v[j] - sum_i p[t, i] g[t]·v[i])
//   sinks     [query heads] f32: of each head a logit more in the softmax, which has no value, where SINKS is 1
//   shares    p in place of the first products, e of the second; zero for keys that are not seen
//   dispatch  (rows, heads, 1): a workgroup a query
@group(0) @binding(1) var<storage, read_write> shares: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> sinks: array<f32>;

const MASKED: f32 = -1e30;

fn scored4(products: vec4<f32>, head: u32, query: u32, key: u32) -> vec4<f32> {
    return vec4(
        scored(products.x, head, query, key),
        scored(products.y, head, query, key + 1u),
        scored(products.z, head, query, key + 2u),
        scored(products.w, head, query, key + 3u),
    );
}

// Which of four keys, from a position on, the query at a position sees.
fn seen4(query: u32, key: u32) -> vec4<bool> {
    let keys = vec4(key) + vec4(0u, 1u, 2u, 3u);
    return (keys <= vec4(query)) & ((keys + vec4(params.window) > vec4(query)) | vec4(params.window == 0u));
}

fn sum4(four: vec4<f32>) -> f32 {
    return dot(four, vec4(1.0));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let row = group.x;
    let own = (group.y * params.rows + row) * params.stride4;
    let agreements = own + params.heads * params.rows * params.stride4;
    let keys4 = (params.keys + 3u) / 4u;
    if row >= params.queries {
        for (var four = index; four < keys4; four += LANES) {
            shares[own + four] = vec4(0.0);
            shares[agreements + four] = vec4(0.0);
        }
        return;
    }
    let head = params.head + group.y;
    let query = params.query + row - params.first;
    let begin = params.key - params.first;
    // Groups of four keys of which it sees one.
    let end4 = min(keys4, (query - begin) / 4u + 1u);
    var first4 = 0u;
    if params.window != 0u && query + 1u > begin + params.window { first4 = (query + 1u - begin - params.window) / 4u; }
    var most = vec4(MASKED);
    for (var four = first4 + index; four < end4; four += LANES) {
        let key = begin + 4u * four;
        let scores = scored4(params.scale * shares[own + four], head, query, key);
        most = max(most, select(vec4(MASKED), scores, seen4(query, key)));
    }
    var highest = reduce_max(max(max(most.x, most.y), max(most.z, most.w)), index);
    if SINKS == 1u { highest = max(highest, sinks[head]); }
    var sum = vec4(0.0);
    var agreement = vec4(0.0);
    for (var four = first4 + index; four < end4; four += LANES) {
        let key = begin + 4u * four;
        let seen = seen4(query, key);
        let scores = scored4(params.scale * shares[own + four], head, query, key);
        let weight = select(vec4(0.0), exp(scores - vec4(highest)), seen);
        sum += weight;
        agreement += weight * select(vec4(0.0), shares[agreements + four], seen);
    }
    var total = reduce_sum(sum4(sum), index);
    if SINKS == 1u { total += exp(sinks[head] - highest); }
    let mean = reduce_sum(sum4(agreement), index) / total;
    for (var four = index; four < keys4; four += LANES) {
        var share = vec4(0.0);
        var slope = vec4(0.0);
        if four >= first4 && four < end4 {
            let key = begin + 4u * four;
            let seen = seen4(query, key);
            let products = params.scale * shares[own + four];
            share = select(vec4(0.0), exp(scored4(products, head, query, key) - vec4(highest)) / total, seen);
            slope = params.scale * share * select(vec4(0.0), shares[agreements + four] - vec4(mean), seen);
            if params.softcap != 0.0 {
                let caps = vec4(capped(products.x), capped(products.y), capped(products.z), capped(products.w));
                slope *= vec4(1.0) - caps * caps / (params.softcap * params.softcap);
            }
        }
        shares[own + four] = share;
        shares[agreements + four] = slope;
    }
}
