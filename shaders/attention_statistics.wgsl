// attention_statistics: what attention's gradient needs of each query: its softmax in one number, and how its result
// and gradient agree.
//   statistics[t, h] = (log sum_j exp(s(scale * q[t, h]·k[j, h / group])), sum_i d[t, h, i] out[t, h, i])
//   s as in shared/scores.wgsl
//   qkv       [tokens, stride] f32; query head h begins at q_column + h * head_dim, key and value heads likewise
//   d, out    [tokens, heads * head_dim] f32, the gradient of attention's result and that result
//   dispatch  (heads, blocks of 32 queries of the sequence first .. end, from first_block on)
@group(0) @binding(3) var<storage, read> out: array<f32>;              // [tokens, d_stride]
@group(0) @binding(4) var<storage, read_write> statistics: array<vec2<f32>>; // [tokens, heads]

const MASKED: f32 = -1e30;

var<workgroup> score: array<vec4<f32>, 256>;                           // [query][key / 4]

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) thread: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let head = group.x;
    let query = params.first + ROWS * (params.first_block + group.y);
    let last = min(query + ROWS, params.end);
    var key = params.first;
    if params.window != 0u { key = max(key, max(query + 1u, params.window) - params.window); }
    // Of the one query of this thread, if it has one.
    var highest = MASKED;
    var sum = 0.0;
    for (; key < last; key += ROWS) {
        multiply(thread.xy, index, head, query, key);
        let y = query + 4u * thread.y;
        let x = key + 4u * thread.x;
        let at = 32u * thread.y + thread.x;
        score[at] = select(vec4(MASKED), scored4(params.scale * s0, head, y, x), seen(y, x));
        score[at + 8u] = select(vec4(MASKED), scored4(params.scale * s1, head, y + 1u, x), seen(y + 1u, x));
        score[at + 16u] = select(vec4(MASKED), scored4(params.scale * s2, head, y + 2u, x), seen(y + 2u, x));
        score[at + 24u] = select(vec4(MASKED), scored4(params.scale * s3, head, y + 3u, x), seen(y + 3u, x));
        workgroupBarrier();
        if index < ROWS {
            var most = vec4(highest);
            for (var i = 0u; i < 8u; i += 1u) { most = max(most, score[8u * index + i]); }
            let top = max(max(most.x, most.y), max(most.z, most.w));
            var shares = vec4(0.0);
            for (var i = 0u; i < 8u; i += 1u) {
                let four = score[8u * index + i];
                shares += select(exp(four - vec4(top)), vec4(0.0), four <= vec4(0.5 * MASKED));
            }
            sum = sum * exp(highest - top) + dot(shares, vec4(1.0));
            highest = top;
        }
    }
    let row = query + index;
    if index < ROWS && row < params.end {
        var agreement = 0.0;
        let at = gradient_at(row, head);
        for (var dim = 0u; dim < params.head_dim; dim += 1u) {
            agreement += d[(at + dim) / 4u][(at + dim) % 4u] * out[at + dim];
        }
        statistics[row * params.statistics_stride2 + head] = vec2(highest + log(sum), agreement);
    }
}
