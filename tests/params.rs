//! Is what each op hands to its kernel laid out as the kernel reads it: the same members, of the same types, in the
//! same places?

use std::{fs, path::Path};

use naga::{AddressSpace, ScalarKind, TypeInner};
use slicegpt_gpu::{gpu::Kernel, ops::kernels};
use syn::{Expr, Fields, Item, Lit, Type};

/// One word: its name, whether it is a number in floating point, and where it lies in bytes.
type Word = (String, bool, u32);

/// Where the `Params` of kernels are that are not in the file of their name.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("attention_backward_products", "attention_blocks", "Params"),
    ("attention_backward_shares", "attention_blocks", "Params"),
    ("attention_backward_sums", "attention_blocks", "Params"),
    ("delta_rule_backward_columns", "delta_marches", "ColumnsParams"),
    ("delta_rule_backward_gates", "delta_rule_backward", "Params"),
    ("delta_rule_backward_rows", "delta_marches", "RowsParams"),
    ("gemm", "gemm", "GemmParams"),
    ("gemm_f16_matrix", "operands", "RowParams"),
    ("gemv", "operands", "RowParams"),
    ("probe_copy", "probe", "CopyParams"),
    ("probe_fma", "probe", "FmaParams"),
];

/// The members of a struct of words in Rust; several of one name are numbered.
fn in_rust(file: &str, name: &str) -> Vec<Word> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops").join(format!("{file}.rs"));
    let syntax = syn::parse_file(&fs::read_to_string(&path).expect("a file")).expect("Rust");
    let found = syntax.items.into_iter().find_map(|item| match item {
        Item::Struct(item) if item.ident == name => Some(item),
        _ => None,
    });
    let item = found.unwrap_or_else(|| panic!("no struct {name} in {path:?}"));
    let is_c = item.attrs.iter().any(|attribute| {
        attribute.path().is_ident("repr") && attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "C")
    });
    assert!(is_c, "{path:?}: {name} is not repr(C)");
    let Fields::Named(fields) = item.fields else { panic!("{path:?}: {name} has no names") };
    words(fields.named.into_iter().flat_map(|field| {
        let name = field.ident.expect("a name").to_string();
        match field.ty {
            Type::Array(array) => {
                let Expr::Lit(length) = array.len else { panic!("{name}: a length in words") };
                let Lit::Int(length) = length.lit else { panic!("{name}: a length in words") };
                let count = length.base10_parse::<usize>().expect("a length");
                (0..count).map(|index| (format!("{name}{index}"), is_float(&array.elem))).collect::<Vec<_>>()
            }
            one => vec![(name, is_float(&one))],
        }
    }))
}

fn is_float(of: &Type) -> bool {
    match of {
        Type::Path(path) if path.path.is_ident("f32") => true,
        Type::Path(path) if path.path.is_ident("u32") => false,
        _ => panic!("neither f32 nor u32"),
    }
}

/// One word after the other, as `repr(C)` lays out words.
fn words(named: impl Iterator<Item = (String, bool)>) -> Vec<Word> {
    named.zip((0..).step_by(4)).map(|((name, float), offset)| (name, float, offset)).collect()
}

/// The members of the uniform of a kernel, and its size in bytes.
fn in_wgsl(kernel: &Kernel) -> (Vec<Word>, u32) {
    let module = naga::front::wgsl::parse_str(&kernel.wgsl()).expect("WGSL");
    let mut uniforms = module.global_variables.iter().filter(|(_, variable)| variable.space == AddressSpace::Uniform);
    let (_, uniform) = uniforms.next().expect("a uniform");
    assert!(uniforms.next().is_none(), "{}: more than one uniform", kernel.name);
    let TypeInner::Struct { members, span } = &module.types[uniform.ty].inner else { panic!("{}", kernel.name) };
    let word = |member: &naga::StructMember| match module.types[member.ty].inner {
        TypeInner::Scalar(scalar) if scalar.width == 4 => {
            (member.name.clone().expect("a name"), scalar.kind == ScalarKind::Float, member.offset)
        }
        ref other => panic!("{} {:?}: {other:?} is no word", kernel.name, member.name),
    };
    (members.iter().map(word).collect(), *span)
}

#[test]
fn params_are_laid_out_as_their_kernel_reads_them() {
    let mut kernels = kernels();
    kernels.dedup_by_key(|kernel| kernel.name);
    assert!(kernels.len() > 15, "{} kernels", kernels.len());
    for kernel in kernels {
        let elsewhere = ELSEWHERE.iter().find(|(name, ..)| *name == kernel.name);
        let stem = kernel.name.split("_wide").next().unwrap_or_default();
        let (file, name) = elsewhere.map_or((stem, "Params"), |(_, file, name)| (*file, *name));
        let (found, size) = in_wgsl(&kernel);
        assert_eq!(found, in_rust(file, name), "{}: {name} of ops/{file}.rs", kernel.name);
        assert_eq!((size as usize, size % 16), (4 * found.len(), 0), "{}: uniforms are of 16 bytes each", kernel.name);
    }
}
