// The activation functions: KIND 0 relu, 1 gelu (erf), 2 gelu (tanh), 3 silu.

// Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7.
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * exp(-x * x);
    return sign(x) * (1.0 - tail);
}

fn apply(x: f32) -> f32 {
    switch KIND {
        case 0u: { return max(x, 0.0); }
        case 1u: { return 0.5 * x * (1.0 + erf(x * 0.70710678118654752)); }
        // tanh by way of the logistic function: drivers' own tanh overflows for large arguments.
        case 2u: { return x / (1.0 + exp(-1.5957691216057308 * (x + 0.044715 * x * x * x))); }
        default: { return x / (1.0 + exp(-x)); }
    }
}
