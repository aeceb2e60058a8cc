// embed_backward: the gradient of an embedding table: that of every token added to the row that it was looked up in.
//   table[row] += sum over the tokens of the row, in their order and in chunks of 64, of d[token]
//   order     [tokens] u32: the tokens row by row
//   runs      [runs] (row, first place in order, tokens, _)
//   d         [tokens, width]  f32
//   table     [rows, width]    f32
//   dispatch  (ceil(stride4 / 64), runs folded into (y, z)); a workgroup has 64 groups of four values of a row
// No two workgroups have the same row, so that the sums are always the same ones.
struct Params {
    runs: u32,
    stride4: u32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> order: array<u32>;            // [tokens]
@group(0) @binding(2) var<storage, read> runs: array<vec4<u32>>;       // [runs]
@group(0) @binding(3) var<storage, read> d: array<vec4<f32>>;          // [tokens, stride]
@group(0) @binding(4) var<storage, read_write> table: array<vec4<f32>>; // [rows, stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let unit = folded_row(group, groups);
    let column4 = 64u * group.x + index;
    if unit >= params.runs || column4 >= params.stride4 {
        return;
    }
    let run = runs[unit];
    var sum = vec4(0.0);
    for (var first = 0u; first < run.z; first += 64u) {
        let end = min(first + 64u, run.z);
        var chunk = vec4(0.0);
        for (var place = first; place < end; place += 1u) {
            chunk += d[order[run.y + place] * params.stride4 + column4];
        }
        sum += chunk;
    }
    table[run.x * params.stride4 + column4] += sum;
}
