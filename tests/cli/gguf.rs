//! A GGUF file as the model: every command takes it, and what comes of it is an ordinary checkpoint.

use slicegpt_gpu::{
    checkpoint::{FileTarget, GgufFile, GgufTensor, GgufType, GgufValue},
    data::{TokenizerFiles, encode},
    model::{Model, Vocabulary},
};

use super::{
    export::{byte_tokenizer, scene},
    gguf_split, *,
};

/// The model of a scene as a file of this type.
fn exported(scene: &Scene, kind: &str) -> PathBuf {
    let file = scene.path(&format!("small-{kind}.gguf"));
    let said = program(args!["export", scene.path("model"), "--format", "gguf", "--type", kind, "-o", file]);
    assert_eq!(said.code, Some(0), "{said:?}");
    file
}

#[test]
fn every_command_takes_a_gguf_file_and_finds_the_model_in_it() {
    let scene = scene();
    let mut tokenizer = byte_tokenizer();
    tokenizer["decoder"] =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    scene.put("model/tokenizer.json", tokenizer.to_string());
    let (model, file, tokens) = (scene.path("model"), exported(&scene, "f32"), scene.tokens("tokens.json", 2, 20));
    let logits = |model: &Path, name: &str| {
        let output = scene.path(name);
        let said = program(args!["logits", model, "--tokens", tokens, "-o", output]);
        assert_eq!(said.code, Some(0), "{said:?}");
        fs::read(output).expect("logits")
    };
    assert!(logits(&model, "a.safetensors") == logits(&file, "b.safetensors"), "the same logits to the last bit");
    let written = |model: &Path| {
        let said = program(args!["generate", model, "--prompt", "ab c", "--max-new-tokens", "8", "--temperature", "0"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        said.out
    };
    assert_eq!(written(&model), written(&file));
    let chat = args!["generate", file, "--chat", "--prompt", "ab"];
    scene.refused(chat, 3, "small-f32.gguf: no chat template in its metadata (tokenizer.chat_template)");
    let text = scene.put("text.txt", "some words, 12 of them\n".repeat(20));
    let perplexity = |model: &Path| program(args!["eval", model, "--text", text, "--seqlen", "32", "--json"]).json();
    let (ours, theirs) = (perplexity(&model), perplexity(&file));
    assert_eq!((&ours["perplexity"], &ours["tokens"]), (&theirs["perplexity"], &theirs["tokens"]));
    assert_eq!(program(args!["eval", file, "--against", model, "--tokens", tokens]).code, Some(0));
    assert_eq!(program(args!["verify", file]).code, Some(0));
    let again = scene.path("again.gguf");
    let said = program(args!["export", file, "--format", "gguf", "--type", "f32", "-o", again]);
    assert_eq!(said.code, Some(0), "{said:?}");
    // The name aside, which is that of the file.
    let tensors = |path: &Path| {
        gguf_reader::read(path).tensors.into_iter().map(|(name, t)| (name, t.values())).collect::<Vec<_>>()
    };
    assert!(tensors(&file) == tensors(&again), "the same tensors");
}

#[test]
fn what_is_made_of_a_quantised_file_is_an_ordinary_checkpoint_in_f16_that_can_be_resumed() {
    let scene = scene();
    let (file, tokens) = (exported(&scene, "q8_0"), scene.tokens("tokens.json", 4, 24));
    let out = scene.path("out");
    let run = args!["run", file, "-o", out, "--basis", "shared", "--calibration", tokens, "--eval", tokens];
    let stopped = program(&[run.as_slice(), args!["--stop-after", "1"]].concat());
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    // The files that were made of the metadata are others by then.
    let said = program(&[run.as_slice(), args!["--resume"]].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    let config = read_json(&out.join("config.json"));
    assert_eq!((&config["model_type"], &config["torch_dtype"]), (&json!("llama"), &json!("float16")));
    for name in ["tokenizer.json", "tokenizer_config.json", "README.md"] {
        assert!(out.join(name).is_file(), "{name}: {:?}", names(&out));
    }
    let card = fs::read_to_string(out.join("README.md")).expect("a card");
    assert!(card.contains("small-q8_0"), "it is called after its file: {card}");
    let checkpoint = Checkpoint::open(&out).expect("a checkpoint");
    let matrices = checkpoint.names().filter(|name| !name.contains("norm"));
    for name in matrices {
        assert_eq!(checkpoint.tensor(name).expect("a tensor").dtype, Dtype::F16, "{name}");
    }
    assert_eq!(program(args!["verify", out]).code, Some(0));
    let small = scene.path("small");
    let compress = args![
        "compress",
        file,
        "-o",
        small,
        "--keep",
        "90%",
        "--effort",
        "quick",
        "--calibration",
        tokens,
        "--dtype",
        "f32"
    ];
    let said = program(compress);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(read_json(&small.join("config.json"))["torch_dtype"], json!("float32"));
    assert_eq!(program(args!["generate", small, "--prompt", "ab", "--max-new-tokens", "2"]).code, Some(0));
}

/// The model of a scene in three files, after one in which it is whole.
fn split(scene: &Scene) -> (PathBuf, Vec<PathBuf>) {
    let whole = scene.path("whole.gguf");
    let model = Model::open(&scene.path("model")).expect("a model");
    let parts = gguf_split::split(&model, Vocabulary::None, &whole, &[4, 5]);
    (whole, gguf_split::write(&parts, scene.directory.path(), "small"))
}

#[test]
fn any_of_several_files_is_the_model_and_all_of_them_count_and_stay() {
    let scene = Scene::new(LLAMA);
    let (whole, files) = split(&scene);
    let tokens = scene.tokens("tokens.json", 4, 24);
    let logits = |model: &Path| {
        let output = scene.path("logits.safetensors");
        let said = program(args!["logits", model, "--tokens", tokens, "-o", output, "--force"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        fs::read(output).expect("logits")
    };
    let expected = logits(&whole);
    files.iter().for_each(|file| assert!(logits(file) == expected, "{}", file.display()));
    // None of them is written over, whichever is named.
    for (named, lost) in [(0, 0), (0, 2), (1, 0), (2, 1)] {
        let (named, lost) = (&files[named], &files[lost]);
        scene.refused(args!["logits", named, "--tokens", tokens, "-o", lost, "--force"], 2, "is the input");
        scene.refused(args!["export", named, "--format", "gguf", "-o", lost, "--force"], 2, "is the input");
        let recover = ["recover", "model", "-o", "out", "--mode", "distil", "--force"];
        let mut command = Command::new(PROGRAM);
        command.current_dir(scene.directory.path()).args(recover).arg("--teacher").arg(named);
        command.arg("--calibration").arg(&tokens).arg("--trace").arg(lost);
        scene.refused_with(&mut command, 2, "is the input");
    }
    // What is made of them is called after the model, not after one of its files.
    let said = program(args!["export", files[1], "--format", "gguf", "--type", "f32", "--no-tokenizer"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(scene.path("small-f32.gguf").is_file(), "{:?}", names(scene.directory.path()));
    let run = args!["run", files[2], "--basis", "shared", "--calibration", tokens, "--eval", tokens];
    let stopped = program(&[run.as_slice(), args!["--stop-after", "1"]].concat());
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    // Another file of the same size is another input.
    let bytes = fs::read(&files[1]).expect("bytes");
    let mut changed = bytes.clone();
    let last = changed.len() - 40;
    changed[last] ^= 1;
    fs::write(&files[1], changed).expect("another file");
    let resume = [run.as_slice(), args!["--resume"]].concat();
    scene.refused(&resume, 2, "small-00002-of-00003.gguf");
    fs::write(&files[1], bytes).expect("the file");
    let said = program(&resume);
    assert_eq!(said.code, Some(0), "{said:?}");
    let out = scene.path("small-shared-25");
    assert_eq!(program(args!["verify", out]).code, Some(0), "{:?}", names(scene.directory.path()));
    let card = fs::read_to_string(out.join("README.md")).expect("a card");
    assert!(card.contains("small") && !card.contains("-of-"), "it is called after the model: {card}");
    fs::remove_file(&files[1]).expect("a file");
    scene.refused(args!["verify", files[0]], 3, "small-00002-of-00003.gguf: missing: the model is in 3 files");
}

/// Tokens of characters and bytes, with "▁" for a space, and merges.
fn of_sentences(prefix: bool) -> Value {
    let merges = ["▁ a", "▁a b", "a b", "b c", "ab c", "▁ ▁", "c c"];
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["▁", "a", "b", "c", "é"].map(String::from));
    tokens.extend(merges.map(|merge| merge.replace(' ', "")));
    let vocab: Map<String, Value> = tokens.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let special = |(id, content): (u32, &str)| json!({ "id": id, "content": content, "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false });
    let added: Vec<Value> = [(0, "<unk>"), (1, "<s>"), (2, "</s>")].into_iter().map(special).collect();
    let mark = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let before = json!({ "type": "Prepend", "prepend": "▁" });
    json!({
        "added_tokens": added, "pre_tokenizer": null,
        "normalizer": { "type": "Sequence", "normalizers": if prefix { vec![before, mark] } else { vec![mark] } },
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } } },
        "model": { "type": "BPE", "byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>", "vocab": vocab, "merges": merges }
    })
}

#[test]
fn a_vocabulary_of_sentence_pieces_cuts_texts_as_it_did_before() {
    for prefix in [true, false] {
        let scene = Scene::with_vocabulary(280);
        let tokenizer = of_sentences(prefix);
        scene.put("model/tokenizer.json", tokenizer.to_string());
        let model = Model::open(&exported(&scene, "f16")).expect("the file");
        let files = TokenizerFiles::read(model.directory()).expect("files");
        let class = model.config().tokenizer_class(files.named_class(), files.of_bytes());
        let built = files.build(&class).expect("a tokenizer");
        let reference: tokenizers::Tokenizer = tokenizer.to_string().parse().expect("a tokenizer");
        for text in ["abc ab", " a  bcc", "é ü 中", "ab\n<s>ab</s> x", "", " ", "aabcabcc b"] {
            let expected = encode(&reference, text, true).expect("ids");
            assert_eq!(encode(&built.tokenizer, text, true).expect("ids"), expected, "{prefix} {text:?}");
        }
        let ids = encode(&built.tokenizer, "abc é 中", false).expect("ids");
        let text = built.tokenizer.decode(&ids, true).expect("a text");
        assert_eq!(text, "abc é 中", "{prefix}");
    }
}

#[test]
fn a_vocabulary_of_likeliest_pieces_cuts_texts_by_their_scores() {
    let scene = Scene::with_vocabulary(10);
    let plain = scene.path("plain.gguf");
    let said = program(args![
        "export",
        scene.path("model"),
        "--format",
        "gguf",
        "--type",
        "f32",
        "--no-tokenizer",
        "-o",
        plain
    ]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let stored = gguf_reader::read(&plain);
    let list = |name: &String| {
        let tensor = &stored.tensors[name];
        let shape = tensor.dimensions.iter().rev().map(|&size| size as usize).collect();
        GgufTensor { name: name.clone(), shape, kind: GgufType::F32 }
    };
    let tensors: Vec<GgufTensor> = stored.names.iter().map(list).collect();
    let mut metadata = Vec::new();
    for (key, value) in &stored.metadata {
        let value = match value {
            gguf_reader::Value::Number(number) if number.fract() == 0.0 && *number >= 0.0 => {
                GgufValue::U32(*number as u32)
            }
            gguf_reader::Value::Number(number) => GgufValue::F32(*number as f32),
            gguf_reader::Value::Text(text) => GgufValue::Text(text.clone()),
            _ => continue,
        };
        metadata.push((key.clone(), value));
    }
    metadata.retain(|(key, _)| !key.starts_with("tokenizer."));
    let pieces = ["<pad>", "</s>", "<unk>", "▁", "a", "b", "▁a", "ab", "▁ab", ""];
    let mut add = |key: &str, value| metadata.push((format!("tokenizer.ggml.{key}"), value));
    add("model", GgufValue::Text("t5".into()));
    add("tokens", GgufValue::Texts(pieces.map(String::from).into()));
    add("scores", GgufValue::F32s(vec![0.0, 0.0, 0.0, -2.0, -3.0, -3.5, -2.5, -3.0, -2.6, -9.0]));
    add("token_type", GgufValue::I32s(vec![3, 3, 2, 1, 1, 1, 1, 1, 1, 5]));
    add("add_eos_token", GgufValue::Bool(true));
    add("remove_extra_whitespaces", GgufValue::Bool(true));
    let path = scene.path("unigram.gguf");
    let target = FileTarget::new(&path, false).expect("a name");
    let mut file = GgufFile::create(target, &metadata, tensors.clone()).expect("a file");
    for tensor in &tensors {
        file.write(&tensor.name, &stored.tensors[&tensor.name].values()).expect("values");
    }
    file.finish().expect("a file");
    let model = Model::open(&path).expect("the file");
    let files = TokenizerFiles::read(model.directory()).expect("files");
    let built =
        files.build(&model.config().tokenizer_class(files.named_class(), files.of_bytes())).expect("a tokenizer");
    for (text, ids) in [
        ("ab", &[8, 1][..]),
        (" ab   a ", &[8, 6, 1]),
        // b and a apart: ▁ b a, at −8.5.
        ("ba", &[3, 5, 4, 1]),
        ("éa", &[3, 2, 4, 1]),
        ("", &[1]),
        ("  ", &[1]),
    ] {
        assert_eq!(encode(&built.tokenizer, text, true).expect("ids"), ids, "{text:?}");
    }
    assert_eq!(built.tokenizer.decode(&[8, 6], true).expect("a text"), "ab a");
}

/// A file with this metadata and one tensor.
fn file(scene: &Scene, metadata: &[(&str, GgufValue)]) -> PathBuf {
    let path = scene.path("x.gguf");
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let tensor = GgufTensor { name: "token_embd.weight".into(), shape: vec![2, 2], kind: GgufType::F32 };
    let mut file =
        GgufFile::create(FileTarget::new(&path, true).expect("a name"), &metadata, vec![tensor]).expect("a file");
    file.write("token_embd.weight", &[0.0; 4]).expect("values");
    file.finish().expect("a file");
    path
}

#[test]
fn what_is_no_model_or_of_no_known_kind_is_refused_by_name() {
    let scene = scene();
    let text = |text: &str| GgufValue::Text(text.into());
    let llama = || ("general.architecture", text("llama"));
    let sizes = || {
        let size = |key, number| (key, GgufValue::U32(number));
        vec![
            llama(),
            size("llama.block_count", 1),
            size("llama.embedding_length", 2),
            size("llama.context_length", 8),
            size("llama.attention.head_count", 1),
            size("llama.feed_forward_length", 2),
        ]
    };
    let with = |key, value| sizes().into_iter().chain([(key, value)]).collect::<Vec<_>>();
    for (metadata, message) in [
        (vec![], "no general.architecture"),
        (vec![("general.architecture", GgufValue::U32(1))], "is no text"),
        (vec![("general.architecture", text("mamba"))], "unknown model_type \"mamba\""),
        (vec![llama(), ("general.type", text("adapter"))], "holds what it calls \"adapter\""),
        (vec![llama(), ("split.count", GgufValue::U32(3))], "is one of 3 files of a model"),
        (vec![llama()], "has no llama.block_count"),
        (with("llama.expert_count", GgufValue::U32(8)), "unsupported llama.expert_count = 8"),
        (with("llama.attention.max_alibi_bias", GgufValue::F32(8.0)), "unsupported llama.attention.max_alibi_bias"),
        (with("llama.rope.scaling.type", text("longrope")), "unsupported llama.rope.scaling.type"),
        (with("llama.attention.sliding_window", GgufValue::U32(4)), "unsupported llama.attention.sliding_window"),
        (with("llama.rope.freq_base", text("high")), "llama.rope.freq_base: expected a number"),
        (with("tokenizer.ggml.model", text("rwkv")), "unsupported tokenizer.ggml.model = \"rwkv\""),
        (with("tokenizer.ggml.model", text("gpt2")), "no list of tokens"),
        (with("llama.attention.key_length", GgufValue::I32s(vec![2, 3])), "unsupported llama.attention.key_length"),
        (with("llama.attention.head_count_kv", GgufValue::I32s(vec![-1])), "expected whole numbers"),
        (with("llama.rope.dimension_count", GgufValue::U32(1)), "unsupported llama.rope.dimension_count"),
        (with("tokenizer.ggml.model", text("no_vocab")), "blk.0.attn_norm.weight"),
    ] {
        let path = file(&scene, &metadata);
        scene.refused(args!["verify", path], 3, message);
    }
    scene.put("x.gguf", "GGUF");
    scene.refused(args!["verify", scene.path("x.gguf")], 3, "ends within the version");
    scene.put("x.gguf", "<!DOCTYPE html><html>");
    scene.refused(args!["verify", scene.path("x.gguf")], 3, "a web page");
    scene.put("x.gguf", "");
    scene.refused(args!["verify", scene.path("x.gguf")], 3, "empty");
}
