//! Is every kernel, with every combination of constants that can be chosen, right for Vulkan, Metal and Direct3D, and
//! within what every adapter has?

#[path = "support/mod.rs"]
mod support;

use std::collections::{BTreeSet, HashSet};

use naga::{
    AddressSpace, Module, ShaderStage,
    back::{hlsl, msl, spv},
    valid::{Capabilities, ModuleInfo, ValidationFlags, Validator},
};
use slicegpt_gpu::{
    eval,
    gpu::{Kernel, Need},
    model::Model,
    ops::kernels,
    progress::Silent,
};

/// What a message about a kernel begins with.
fn name(kernel: &Kernel) -> String {
    format!("{} {:?}", kernel.name, kernel.constants)
}

/// Parsed and validated with no capability beyond what the kernel says it needs.
fn validated(kernel: &Kernel) -> (Module, ModuleInfo) {
    let wgsl = kernel.wgsl();
    let module = naga::front::wgsl::parse_str(&wgsl)
        .unwrap_or_else(|error| panic!("{}: {}", name(kernel), error.emit_to_string(&wgsl)));
    let capabilities = match kernel.need() {
        Need::Nothing => Capabilities::empty(),
        Need::UnpackF16 => Capabilities::SHADER_FLOAT16_IN_FLOAT32,
        Need::MatrixUnits => {
            Capabilities::COOPERATIVE_MATRIX
                | Capabilities::SHADER_FLOAT16
                | Capabilities::SUBGROUP
                | Capabilities::SHADER_FLOAT16_IN_FLOAT32
        }
    };
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}: {}", name(kernel), error.emit_to_string(&wgsl)));
    (module, info)
}

/// SPIR-V's OpCooperativeMatrixMulAddKHR.
const COOPERATIVE_MULTIPLY_ADD: u32 = 4459;

/// How many instructions have this code.
fn count(words: &[u32], code: u32) -> usize {
    let (mut at, mut found) = (5, 0);
    while at < words.len() {
        found += usize::from(words[at] & 0xffff == code);
        at += (words[at] >> 16).max(1) as usize;
    }
    found
}

#[test]
fn every_kernel_translates_for_vulkan_metal_and_direct3d() {
    for kernel in kernels() {
        let (module, info) = validated(&kernel);
        let entry = || (ShaderStage::Compute, "main".to_owned());
        let options = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".into() };
        let words = spv::write_vec(&module, &info, &spv::Options::default(), Some(&options));
        let words = words.unwrap_or_else(|error| panic!("{}: {error}", name(&kernel)));
        assert!(words.len() > 100);
        let matrix_units = kernel.need() == Need::MatrixUnits;
        assert_eq!(count(&words, COOPERATIVE_MULTIPLY_ADD) > 0, matrix_units, "{}", name(&kernel));

        let options = msl::PipelineOptions { entry_point: Some(entry()), ..Default::default() };
        let (text, translated) = msl::write_string(
            &module,
            &info,
            &msl::Options { lang_version: if matrix_units { (2, 3) } else { (2, 1) }, ..Default::default() },
            &options,
        )
        .unwrap_or_else(|error| panic!("{}: {error}", name(&kernel)));
        assert!(
            text.contains("kernel void main_(") && translated.entry_point_names.iter().all(Result::is_ok),
            "{}: {text}",
            name(&kernel)
        );
        assert_eq!(text.contains("simdgroup_multiply_accumulate("), matrix_units, "{}: {text}", name(&kernel));

        // Direct3D's matrix units are unknown to naga and wgpu.
        if matrix_units {
            continue;
        }
        let (mut text, options) = (String::new(), hlsl::PipelineOptions { entry_point: Some(entry()) });
        let translated = hlsl::Writer::new(&mut text, &hlsl::Options::default(), &options)
            .write(&module, &info, None)
            .unwrap_or_else(|error| panic!("{}: {error}", name(&kernel)));
        assert!(
            text.contains("numthreads") && translated.entry_point_names.iter().all(Result::is_ok),
            "{}: {text}",
            name(&kernel)
        );
    }
}

#[test]
fn every_kernel_keeps_to_the_limits_that_every_adapter_has() {
    // WebGPU's downlevel defaults.
    let (most_memory, most_threads, most_in_a_dimension, most_storage, most_uniform) =
        (16352, 256, [256, 256, 64], 4, 16 << 10);
    for kernel in kernels() {
        let (module, info) = validated(&kernel);
        let [entry] = module.entry_points.as_slice() else { panic!("{}: one entry point", name(&kernel)) };
        let [x, y, z] = entry.workgroup_size;
        assert!(x * y * z <= most_threads, "{}: {:?} threads", name(&kernel), entry.workgroup_size);
        assert!(
            entry.workgroup_size.iter().zip(most_in_a_dimension).all(|(size, most)| *size <= most),
            "{}",
            name(&kernel)
        );
        let used = || module.global_variables.iter().filter(|(handle, _)| !info.get_entry_point(0)[*handle].is_empty());
        let size = |ty| module.types[ty].inner.size(module.to_ctx());
        let memory: u32 = used()
            .filter(|(_, v)| v.space == AddressSpace::WorkGroup)
            .map(|(_, v)| size(v.ty).next_multiple_of(16))
            .sum();
        assert!(memory <= most_memory, "{}: {memory} bytes of workgroup memory", name(&kernel));
        let storage = used().filter(|(_, v)| matches!(v.space, AddressSpace::Storage { .. })).count();
        assert!(storage <= most_storage, "{}: {storage} storage buffers", name(&kernel));
        for (_, uniform) in used().filter(|(_, v)| v.space == AddressSpace::Uniform) {
            assert!(size(uniform.ty) <= most_uniform, "{}: {} bytes of uniforms", name(&kernel), size(uniform.ty));
        }
        for (_, variable) in used() {
            assert!(
                variable.binding.as_ref().is_none_or(|binding| binding.group == 0),
                "{}: more than one bind group",
                name(&kernel)
            );
        }
    }
}

#[test]
fn what_only_some_adapters_can_do_has_a_kernel_for_the_others() {
    let (all, everywhere): (Vec<_>, HashSet<_>) = (
        kernels(),
        kernels().into_iter().filter(|one| one.need() == Need::Nothing).map(|one| (one.name, one.constants)).collect(),
    );
    let unpacking: Vec<_> = all.iter().filter(|one| one.need() == Need::UnpackF16).collect();
    assert!(unpacking.len() > 10);
    for kernel in unpacking {
        assert!(everywhere.contains(&(kernel.name, kernel.constants.clone())), "{}", name(kernel));
    }
    let on_matrix_units: BTreeSet<_> =
        all.iter().filter(|one| one.need() == Need::MatrixUnits).map(|one| one.name).collect();
    assert_eq!(on_matrix_units, BTreeSet::from(["gemm_f16_matrix"]));
}

#[test]
fn the_catalog_has_every_shader_and_nothing_twice() {
    let all = kernels();
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders")).expect("a directory");
    let stems = files.filter_map(|entry| {
        entry.expect("an entry").file_name().to_string_lossy().strip_suffix(".wgsl").map(str::to_owned)
    });
    let named: BTreeSet<String> = all.iter().map(|kernel| kernel.name.to_owned()).collect();
    assert_eq!(named, stems.collect::<BTreeSet<_>>());
    let texts: HashSet<String> = all.iter().map(Kernel::wgsl).collect();
    assert_eq!(texts.len(), all.len());
}

#[test]
fn what_models_run_is_in_the_catalog() {
    let gpu = support::gpu();
    for entry in std::fs::read_dir(support::fixture("parity")).expect("fixtures") {
        let path = entry.expect("an entry").path();
        let model = Model::open(&path).expect("a model");
        let rows = support::tokens(&path.join("tokens.json"));
        eval::logits(&gpu, &model, &rows, &Silent, |_, _| Ok(())).expect("logits");
    }
    let known: HashSet<_> = kernels().into_iter().map(|kernel| (kernel.name, kernel.constants)).collect();
    let compiled = gpu.compiled();
    assert!(compiled.len() > 10, "{compiled:?}");
    assert_eq!(compiled.into_iter().filter(|kernel| !known.contains(kernel)).collect::<Vec<_>>(), []);
}
