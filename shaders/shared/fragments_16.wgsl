// A subgroup's 32×32 results on matrix units of 16×16×16: two fragments by two, stored one at a time.
enable f16;
enable wgpu_cooperative_matrix;

const SIZE: u32 = 16u;
const ROUND_ROWS: u32 = 16u;
const ROUND_COLUMNS: u32 = 16u;

var<private> c00: coop_mat16x16<f32, C>; var<private> c01: coop_mat16x16<f32, C>;
var<private> c10: coop_mat16x16<f32, C>; var<private> c11: coop_mat16x16<f32, C>;

// Must come before anything is stored: `results` is the zeros that are loaded.
fn clear_fragments() {
    c00 = coopLoadT<coop_mat16x16<f32, C>>(&results[0], SIZE);
    c01 = c00; c10 = c00; c11 = c00;
}

// Adds the products of SIZE steps of 32 rows and 32 columns, which begin at these places of the tiles.
fn multiply_fragments(left: u32, right: u32) {
    let a0 = coopLoadT<coop_mat16x16<f16, A>>(&tile_left[left], STRIDE);
    let a1 = coopLoadT<coop_mat16x16<f16, A>>(&tile_left[left + 16u * STRIDE], STRIDE);
    let b0 = coopLoad<coop_mat16x16<f16, B>>(&tile_right[right], STRIDE);
    let b1 = coopLoad<coop_mat16x16<f16, B>>(&tile_right[right + 16u * STRIDE], STRIDE);
    c00 = coopMultiplyAdd(a0, b0, c00); c01 = coopMultiplyAdd(a0, b1, c01);
    c10 = coopMultiplyAdd(a1, b0, c10); c11 = coopMultiplyAdd(a1, b1, c11);
}

fn store_fragments(round: u32, at: u32) {
    switch round {
        case 0u: { coopStoreT(c00, &results[at], ROUND_COLUMNS); }
        case 1u: { coopStoreT(c01, &results[at], ROUND_COLUMNS); }
        case 2u: { coopStoreT(c10, &results[at], ROUND_COLUMNS); }
        default: { coopStoreT(c11, &results[at], ROUND_COLUMNS); }
    }
}
