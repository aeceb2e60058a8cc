// Weights stored as f32. Binding 2 always holds what may be stored in 16 bits; index i counts groups of four elements.
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;

fn load_w(i: u32) -> vec4<f32> {
    return w[i];
}
