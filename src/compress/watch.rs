//! How the predictions of the two models agree on the tokens that nothing is fitted to.

use crate::{
    error::Result,
    gpu::Matrix,
    model::{Agreement, Agreements, HostEnds, logit_slices},
    stream::Pass,
};

/// Runs the head over what it reads in both models, `inputs(batch)`, `[tokens, hidden_size]` each, for every batch that
/// only runs along; the norm before it is in its rows if `fused`.
///
/// # Errors
/// Those of `inputs`; whatever the model or the GPU reports.
pub fn agreement(
    pass: &mut Pass,
    ends: &HostEnds,
    fused: bool,
    mut inputs: impl FnMut(&Pass, usize) -> Result<[Matrix; 2]>,
) -> Result<Agreement> {
    let gpu = pass.gpu;
    let mut sums = Agreements::default();
    for index in pass.counted..pass.batches.len() {
        let rows = &pass.job.rows[pass.batches[index].clone()];
        let [p, q] = inputs(pass, index)?;
        let targets: Vec<u32> = rows.iter().flat_map(|row| row[1..].iter().copied().chain([u32::MAX])).collect();
        let (targets, state) = (gpu.upload_u32(&targets)?, gpu.divergence_state(p.rows())?);
        let mut first = 0;
        pass.each_head(ends, fused, |_, part, bias| {
            let begin = first;
            first += part.rows();
            let bias = bias.as_deref();
            logit_slices(gpu, [(&p, part, bias), (&q, part, bias)], [ends.logit_softcap; 2], |start, [p, q]| {
                gpu.divergence(p, q, begin + start, &targets, &state)
            })
        })?;
        sums.add(rows.iter().map(Vec::len), &gpu.divergences(&state)?);
        pass.job.progress.advance(1)?;
    }
    Ok(sums.means())
}
