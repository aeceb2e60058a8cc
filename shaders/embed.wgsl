// embed: rows of a table, looked up and written or added.
//   x[t] (+)= w[ids[t] + offset - first]   for the ids + offset in first .. first + rows; other tokens are left alone
//   ids       [tokens] u32
//   w         [rows, width] f32 | f16 | bf16: a slice of the vocabulary, since the whole may exceed a binding
//   x         [tokens, width] f32
//   dispatch  one thread four elements, 64 a workgroup, folded into (x, y)
struct Params {
    tokens: u32,
    stride4: u32,
    first: u32,
    rows: u32,
    accumulate: u32,
    offset: u32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;              // [tokens]
// binding 2: w                                                        // [rows, stride]
@group(0) @binding(3) var<storage, read_write> x: array<vec4<f32>>;    // [tokens, stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let unit = 64u * linear_workgroup(group, groups) + index;
    if unit >= params.tokens * params.stride4 {
        return;
    }
    let id = ids[unit / params.stride4] + params.offset;
    if id < params.first || id - params.first >= params.rows {
        return;
    }
    var value = load_w((id - params.first) * params.stride4 + unit % params.stride4);
    if params.accumulate != 0u {
        value += x[unit];
    }
    x[unit] = value;
}
