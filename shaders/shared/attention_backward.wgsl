// What the kernels of attention's gradient share: products of 32 queries with 32 keys of one head and one sequence, a
// thread's 4 × 4 of them;
// with SIDES = 2 also those of the gradients of the 32 results with the 32 values. 8 × 8 threads.
struct Params {
    first: u32,
    end: u32,
    first_block: u32,
    head_dim: u32,
    group: u32,
    window: u32,
    stride: u32,
    q_column: u32,
    k_column: u32,
    v_column: u32,
    d_stride: u32,
    statistics_stride2: u32,
    scale: f32,
    softcap: f32,
    alibi_heads: u32,
    alibi_factor: f32,
    alibi_in_bf16: u32,
    part: u32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4<f32>>;        // [tokens, stride]
@group(0) @binding(2) var<storage, read> d: array<vec4<f32>>;          // [tokens, d_stride]

const ROWS: u32 = 32u;                                                 // queries, or keys, of a block
const DIMS: u32 = 16u / SIDES;                                         // coordinates at a time

var<workgroup> tile: array<vec4<f32>, 256>;                            // [query, key, gradient or value][dim][row / 4]

// Products with key 4 * thread.x + (0, 1, 2, 3): s of query 4 * thread.y + i, t of the gradient of its result.
var<private> s0: vec4<f32>; var<private> s1: vec4<f32>; var<private> s2: vec4<f32>; var<private> s3: vec4<f32>;
var<private> t0: vec4<f32>; var<private> t1: vec4<f32>; var<private> t2: vec4<f32>; var<private> t3: vec4<f32>;

// Coordinates dim .. dim+3 of what begins at an element; zero beyond the head.
fn load_qkv(at: u32, dim: u32) -> vec4<f32> {
    var value = vec4(0.0);
    if ALIGNED == 1u {
        if dim < params.head_dim { value = qkv[(at + dim) / 4u]; }
        return value;
    }
    for (var i = 0u; i < 4u; i += 1u) {
        let element = at + dim + i;
        if dim + i < params.head_dim { value[i] = qkv[element / 4u][element % 4u]; }
    }
    return value;
}

fn load_d(at: u32, dim: u32) -> vec4<f32> {
    var value = vec4(0.0);
    if ALIGNED == 1u {
        if dim < params.head_dim { value = d[(at + dim) / 4u]; }
        return value;
    }
    for (var i = 0u; i < 4u; i += 1u) {
        let element = at + dim + i;
        if dim + i < params.head_dim { value[i] = d[element / 4u][element % 4u]; }
    }
    return value;
}

// Where a row's query, key, value and gradient of a result begin; beyond the sequence, those of its last token.
fn query_at(row: u32, head: u32) -> u32 {
    return min(row, params.end - 1u) * params.stride + params.q_column + head * params.head_dim;
}

fn key_at(row: u32, head: u32) -> u32 {
    return min(row, params.end - 1u) * params.stride + params.k_column + head / params.group * params.head_dim;
}

fn value_at(row: u32, head: u32) -> u32 {
    return min(row, params.end - 1u) * params.stride + params.v_column + head / params.group * params.head_dim;
}

fn gradient_at(row: u32, head: u32) -> u32 {
    return min(row, params.end - 1u) * params.d_stride + head * params.head_dim;
}

fn load_row(which: u32, row: u32, dim: u32, head: u32) -> vec4<f32> {
    switch which {
        case 0u: { return load_qkv(query_at(row, head), dim); }
        case 1u: { return load_qkv(key_at(row, head), dim); }
        case 2u: { return load_d(gradient_at(row, head), dim); }
        default: { return load_qkv(value_at(row, head), dim); }
    }
}

// The products of the queries from row `query` on with the keys from row `key` on.
fn multiply(thread: vec2<u32>, index: u32, head: u32, query: u32, key: u32) {
    s0 = vec4(0.0); s1 = vec4(0.0); s2 = vec4(0.0); s3 = vec4(0.0);
    t0 = vec4(0.0); t1 = vec4(0.0); t2 = vec4(0.0); t3 = vec4(0.0);
    // Four rows and four coordinates a thread, turned so that each vec4 holds one coordinate.
    let units = 32u / SIDES;
    let which = index / units;
    let row4 = index % units / (DIMS / 4u);
    let dim4 = index % (DIMS / 4u);
    let row = select(query, key, which % 2u == 1u) + 4u * row4;
    let place = (which * DIMS + 4u * dim4) * 8u + row4;
    for (var dims = 0u; dims < params.head_dim; dims += DIMS) {
        let dim = dims + 4u * dim4;
        let turned = transpose(mat4x4(
            load_row(which, row, dim, head),
            load_row(which, row + 1u, dim, head),
            load_row(which, row + 2u, dim, head),
            load_row(which, row + 3u, dim, head),
        ));
        tile[place] = turned[0];
        tile[place + 8u] = turned[1];
        tile[place + 16u] = turned[2];
        tile[place + 24u] = turned[3];
        workgroupBarrier();
        for (var i = 0u; i < DIMS; i += 1u) {
            let a = tile[i * 8u + thread.y];
            let b = tile[(DIMS + i) * 8u + thread.x];
            s0 = fma(a.xxxx, b, s0); s1 = fma(a.yyyy, b, s1); s2 = fma(a.zzzz, b, s2); s3 = fma(a.wwww, b, s3);
            if SIDES == 2u {
                let g = tile[(2u * DIMS + i) * 8u + thread.y];
                let v = tile[(3u * DIMS + i) * 8u + thread.x];
                t0 = fma(g.xxxx, v, t0); t1 = fma(g.yyyy, v, t1); t2 = fma(g.zzzz, v, t2); t3 = fma(g.wwww, v, t3);
            }
        }
        workgroupBarrier();
    }
}

// The scores of a query with four keys, from their scaled products.
fn scored4(products: vec4<f32>, head: u32, query: u32, key: u32) -> vec4<f32> {
    let position = query - params.first;
    let first = key - params.first;
    return vec4(
        scored(products.x, head, position, first),
        scored(products.y, head, position, first + 1u),
        scored(products.z, head, position, first + 2u),
        scored(products.w, head, position, first + 3u),
    );
}

// Which of the keys from row `key` on a query sees.
fn seen(query: u32, key: u32) -> vec4<bool> {
    let keys = vec4(key) + vec4(0u, 1u, 2u, 3u);
    let causal = (keys <= vec4(query)) & vec4(query < params.end);
    return causal & ((keys + vec4(params.window) > vec4(query)) | vec4(params.window == 0u));
}
