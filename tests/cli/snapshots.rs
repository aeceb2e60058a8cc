//! Snapshots in a Hugging Face cache: what outputs of them are called, and where they go.

use super::{writes::scene, *};

#[test]
fn a_snapshot_in_a_hugging_face_cache_gives_its_repositorys_name_to_outputs_in_the_current_directory() {
    let scene = scene();
    let snapshot = scene.path("hub/models--an-org--A-Model.v1/snapshots/0123abcd");
    fs::create_dir_all(snapshot.parent().expect("a parent")).expect("a directory");
    fs::rename(scene.path("model"), &snapshot).expect("moved");
    fs::create_dir(scene.path("here")).expect("a directory");
    let tokens = scene.path("tokens.json");
    let does = |arguments: &[&OsStr]| {
        let said = said(Command::new(PROGRAM).current_dir(scene.path("here")).args(arguments));
        assert_eq!(said.code, Some(0), "{arguments:?}: {said:?}");
    };
    let cache = contents(&scene.path("hub"));
    for (model, force) in [
        (snapshot.clone(), None),
        (snapshot.join(""), Some("--force")),
        (snapshot.join("model.safetensors"), Some("--force")),
    ] {
        let mut run = args!["run", model, "--calibration", tokens].to_vec();
        let mut export = args!["export", model, "--format", "gguf", "--no-tokenizer"].to_vec();
        run.extend(force.map(OsStr::new));
        export.extend(force.map(OsStr::new));
        does(&run);
        does(&export);
        assert_eq!(names(&scene.path("here")), ["A-Model.v1-f16.gguf", "A-Model.v1-sliced-25"], "{model:?}");
        let card = fs::read_to_string(scene.path("here/A-Model.v1-sliced-25/README.md")).expect("a card");
        assert!(card.contains("\n# A-Model.v1, sliced\n"), "{card}");
    }
    let gguf = fs::read(scene.path("here/A-Model.v1-f16.gguf")).expect("a file");
    assert!(gguf.windows(10).any(|bytes| bytes == b"A-Model.v1"), "general.name");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&snapshot, scene.path("alias")).expect("a link");
        let file = scene.path("alias/model.safetensors");
        does(args!["run", file, "--calibration", tokens, "--force"]);
        assert_eq!(names(&scene.path("here")), ["A-Model.v1-f16.gguf", "A-Model.v1-sliced-25"]);
    }
    assert!(contents(&scene.path("hub")) == cache, "nothing is written into the cache");
}
