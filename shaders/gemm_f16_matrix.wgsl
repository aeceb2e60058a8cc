// gemm_f16_matrix: C (+)= A·Wᵀ + bias on matrix units, A and W rounded to f16, products summed in f32.
//   c[m, column + n] (+)= sum_k f16(a[m, k]) * f16(w[n, k]) + bias[n]
//   dispatch  (ceil(N / 64), ceil(M / 64), 1)
// The first four subgroups have a quarter of the tile each, 32×32 results in fragments (fragments_*.wgsl). THREADS is
// four times the largest subgroup of the adapter: where subgroups turn out smaller there are more than four, and the
// others help with copying alone.
struct Params {
    m: u32,
    n: u32,
    k4: u32,
    a_stride4: u32,
    w_stride4: u32,
    c_stride: u32,
    c_column: u32,
    bias_column: u32,
    has_bias: u32,
    accumulate: u32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;          // [M, stride], f32
// binding 2: w                                                        // [N, K], f32 | f16 | bf16
@group(0) @binding(3) var<storage, read> bias: array<f32>;             // [N]
@group(0) @binding(4) var<storage, read_write> c: array<f32>;          // [M, stride]

const TILE: u32 = 64u;
const QUARTER: u32 = 32u;
const QUARTERS: u32 = 4u;
const STEPS: u32 = 32u;
const STEPS4: u32 = STEPS / 4u;
// Fragments must begin at multiples of 16 bytes; with 16 more than the steps take, neighbouring rows are in different
// banks.
const STRIDE: u32 = STEPS + 8u;
// Results of a quarter that are stored at a time.
const ROUNDS: u32 = 4u;
const ROUND: u32 = QUARTER * QUARTER / ROUNDS;

var<workgroup> tile_left: array<f16, TILE * STRIDE>;                   // [row][step]
var<workgroup> tile_right: array<f16, TILE * STRIDE>;                  // [column][step]
var<workgroup> results: array<f32, QUARTERS * ROUND>;                  // [quarter][ROUND_ROWS][ROUND_COLUMNS]; all zero at first

// Rounded to f16: the largest number instead of infinity, NaN as it is.
fn narrowed(values: vec4<f32>) -> vec4<f16> {
    let most = vec4(65504.0);
    return vec4<f16>(select(values, select(-most, most, values > vec4(0.0)), abs(values) > most));
}

// Copies 32 steps of 64 rows of A and of W. Beyond the last step both are zero; beyond the last row anything will do,
// it is not stored.
fn stage(index: u32, first_row: u32, first_column: u32, first4: u32) {
    for (var unit = index; unit < TILE * STEPS4; unit += THREADS) {
        let line = unit / STEPS4;
        let step4 = first4 + unit % STEPS4;
        var of_a = vec4<f32>();
        var of_w = vec4<f32>();
        if step4 < params.k4 {
            of_a = a[min(first_row + line, params.m - 1u) * params.a_stride4 + step4];
            of_w = load_w(min(first_column + line, params.n - 1u) * params.w_stride4 + step4);
        }
        let left = narrowed(of_a);
        let right = narrowed(of_w);
        let at = line * STRIDE + 4u * (unit % STEPS4);
        tile_left[at] = left.x;
        tile_left[at + 1u] = left.y;
        tile_left[at + 2u] = left.z;
        tile_left[at + 3u] = left.w;
        tile_right[at] = right.x;
        tile_right[at + 1u] = right.y;
        tile_right[at + 2u] = right.z;
        tile_right[at + 3u] = right.w;
    }
}

fn store_result(row: u32, column: u32, value: f32) {
    if row >= params.m || column >= params.n {
        return;
    }
    let at = row * params.c_stride + params.c_column + column;
    var result = value;
    if params.has_bias != 0u { result += bias[params.bias_column + column]; }
    if params.accumulate != 0u { result += c[at]; }
    c[at] = result;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32, @builtin(subgroup_id) subgroup: u32) {
    let first_row = TILE * group.y;
    let first_column = TILE * group.x;
    clear_fragments();
    for (var first4 = 0u; first4 < params.k4; first4 += STEPS4) {
        stage(index, first_row, first_column, first4);
        workgroupBarrier();
        // Loops of one turn or none: whole subgroups take them, but the validator counts `if` as a branch of single
        // threads.
        for (var quarter = subgroup; quarter < QUARTERS; quarter += QUARTERS) {
            let left = quarter / 2u * QUARTER * STRIDE;
            let right = quarter % 2u * QUARTER * STRIDE;
            for (var step = 0u; step < STEPS; step += SIZE) {
                multiply_fragments(left + step, right + step);
            }
        }
        workgroupBarrier();
    }
    for (var round = 0u; round < ROUNDS; round += 1u) {
        for (var quarter = subgroup; quarter < QUARTERS; quarter += QUARTERS) {
            store_fragments(round, quarter * ROUND);
        }
        workgroupBarrier();
        for (var unit = index; unit < QUARTERS * ROUND; unit += THREADS) {
            let quarter = unit / ROUND;
            let begin = round * ROUND_COLUMNS;
            let row = begin / QUARTER * ROUND_ROWS + unit % ROUND / ROUND_COLUMNS;
            let column = begin % QUARTER + unit % ROUND_COLUMNS;
            store_result(first_row + quarter / 2u * QUARTER + row, first_column + quarter % 2u * QUARTER + column, results[unit]);
        }
        workgroupBarrier();
    }
}
