// What becomes of a scaled product of a query with a key before the softmax: c * tanh(s / c) where there is a soft-cap
// c, less what a linear bias takes off for the distance. Heads count from the first of the layer, positions from the
// beginning of the sequence.

fn capped(score: f32) -> f32 {
    if params.softcap == 0.0 { return score; }
    return params.softcap * tanh_of(score / params.softcap);
}

// The nearest number that bf16 has.
fn to_bf16(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    return bitcast<f32>((bits + 0x7fffu + ((bits >> 16u) & 1u)) & 0xffff0000u);
}

// With n the largest power of two up to the number of heads: 2^(-8 (h + 1) / n), and then 2^(-4 (2 (h - n) + 1) / n).
fn linear_bias(head: u32, query: u32, key: u32) -> f32 {
    let n = params.alibi_heads;
    if n == 0u { return 0.0; }
    let number = f32(select(2u * (head + 1u), 2u * (head - n) + 1u, head >= n));
    let slope = exp2(-4.0 * number / f32(n));
    if params.alibi_in_bf16 == 0u {
        return params.alibi_factor * slope * (f32(key) - f32(query));
    }
    let rounded = to_bf16(slope);
    return params.alibi_factor * (to_bf16(rounded * to_bf16(f32(key))) - to_bf16(rounded * to_bf16(f32(query))));
}

fn scored(score: f32, head: u32, query: u32, key: u32) -> f32 {
    return capped(score) + linear_bias(head, query, key);
}
