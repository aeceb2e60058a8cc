// A subgroup's 32×32 results on matrix units of 8×8×8: four fragments by four, stored a row at a time.
enable f16;
enable wgpu_cooperative_matrix;

const SIZE: u32 = 8u;
const ROUND_ROWS: u32 = 8u;
const ROUND_COLUMNS: u32 = 32u;

var<private> c00: coop_mat8x8<f32, C>; var<private> c01: coop_mat8x8<f32, C>;
var<private> c02: coop_mat8x8<f32, C>; var<private> c03: coop_mat8x8<f32, C>;
var<private> c10: coop_mat8x8<f32, C>; var<private> c11: coop_mat8x8<f32, C>;
var<private> c12: coop_mat8x8<f32, C>; var<private> c13: coop_mat8x8<f32, C>;
var<private> c20: coop_mat8x8<f32, C>; var<private> c21: coop_mat8x8<f32, C>;
var<private> c22: coop_mat8x8<f32, C>; var<private> c23: coop_mat8x8<f32, C>;
var<private> c30: coop_mat8x8<f32, C>; var<private> c31: coop_mat8x8<f32, C>;
var<private> c32: coop_mat8x8<f32, C>; var<private> c33: coop_mat8x8<f32, C>;

// Must come before anything is stored: `results` is the zeros that are loaded.
fn clear_fragments() {
    c00 = coopLoadT<coop_mat8x8<f32, C>>(&results[0], SIZE);
    c01 = c00; c02 = c00; c03 = c00;
    c10 = c00; c11 = c00; c12 = c00; c13 = c00;
    c20 = c00; c21 = c00; c22 = c00; c23 = c00;
    c30 = c00; c31 = c00; c32 = c00; c33 = c00;
}

// Adds the products of SIZE steps of 32 rows and 32 columns, which begin at these places of the tiles.
fn multiply_fragments(left: u32, right: u32) {
    let a0 = coopLoadT<coop_mat8x8<f16, A>>(&tile_left[left], STRIDE);
    let a1 = coopLoadT<coop_mat8x8<f16, A>>(&tile_left[left + 8u * STRIDE], STRIDE);
    let a2 = coopLoadT<coop_mat8x8<f16, A>>(&tile_left[left + 16u * STRIDE], STRIDE);
    let a3 = coopLoadT<coop_mat8x8<f16, A>>(&tile_left[left + 24u * STRIDE], STRIDE);
    let b0 = coopLoad<coop_mat8x8<f16, B>>(&tile_right[right], STRIDE);
    let b1 = coopLoad<coop_mat8x8<f16, B>>(&tile_right[right + 8u * STRIDE], STRIDE);
    let b2 = coopLoad<coop_mat8x8<f16, B>>(&tile_right[right + 16u * STRIDE], STRIDE);
    let b3 = coopLoad<coop_mat8x8<f16, B>>(&tile_right[right + 24u * STRIDE], STRIDE);
    c00 = coopMultiplyAdd(a0, b0, c00); c01 = coopMultiplyAdd(a0, b1, c01);
    c02 = coopMultiplyAdd(a0, b2, c02); c03 = coopMultiplyAdd(a0, b3, c03);
    c10 = coopMultiplyAdd(a1, b0, c10); c11 = coopMultiplyAdd(a1, b1, c11);
    c12 = coopMultiplyAdd(a1, b2, c12); c13 = coopMultiplyAdd(a1, b3, c13);
    c20 = coopMultiplyAdd(a2, b0, c20); c21 = coopMultiplyAdd(a2, b1, c21);
    c22 = coopMultiplyAdd(a2, b2, c22); c23 = coopMultiplyAdd(a2, b3, c23);
    c30 = coopMultiplyAdd(a3, b0, c30); c31 = coopMultiplyAdd(a3, b1, c31);
    c32 = coopMultiplyAdd(a3, b2, c32); c33 = coopMultiplyAdd(a3, b3, c33);
}

fn store_fragments(round: u32, at: u32) {
    switch round {
        case 0u: {
            coopStoreT(c00, &results[at], ROUND_COLUMNS); coopStoreT(c01, &results[at + 8u], ROUND_COLUMNS);
            coopStoreT(c02, &results[at + 16u], ROUND_COLUMNS); coopStoreT(c03, &results[at + 24u], ROUND_COLUMNS);
        }
        case 1u: {
            coopStoreT(c10, &results[at], ROUND_COLUMNS); coopStoreT(c11, &results[at + 8u], ROUND_COLUMNS);
            coopStoreT(c12, &results[at + 16u], ROUND_COLUMNS); coopStoreT(c13, &results[at + 24u], ROUND_COLUMNS);
        }
        case 2u: {
            coopStoreT(c20, &results[at], ROUND_COLUMNS); coopStoreT(c21, &results[at + 8u], ROUND_COLUMNS);
            coopStoreT(c22, &results[at + 16u], ROUND_COLUMNS); coopStoreT(c23, &results[at + 24u], ROUND_COLUMNS);
        }
        default: {
            coopStoreT(c30, &results[at], ROUND_COLUMNS); coopStoreT(c31, &results[at + 8u], ROUND_COLUMNS);
            coopStoreT(c32, &results[at + 16u], ROUND_COLUMNS); coopStoreT(c33, &results[at + 24u], ROUND_COLUMNS);
        }
    }
}
