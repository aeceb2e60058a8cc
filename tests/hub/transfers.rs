//! Transfers that break, stall, never end or begin elsewhere, and servers that are busy.

use super::*;

#[test]
fn a_transfer_that_breaks_goes_on_where_it_was_and_another_process_can_do_so() {
    let server = Server::new(&files());
    let cache = tempfile::tempdir().expect("a directory");
    let settings = server.settings(cache.path());
    locked(&server.mood).breaks_after = Some(6000);
    let found = find(Path::new("org/name"), &settings, &Silent).expect("a model");
    assert!(fs::read(found.join("model.safetensors")).expect("weights") == weights(0));
    let of = |came: Vec<Came>| {
        came.into_iter().filter(|came| came.path.starts_with("/cdn")).filter_map(|came| came.range).collect::<Vec<_>>()
    };
    assert_eq!(of(server.came()), ["bytes=6000-", "bytes=12000-", "bytes=18000-"]);
    // What an earlier process left, which may be more than all of it, or of a server without ranges.
    for (left, no_ranges) in
        [(weights(0)[..777].to_vec(), false), (weights(0)[..777].to_vec(), true), (vec![1; 30_000], false)]
    {
        *locked(&server.mood) = Mood { no_ranges, ..Mood::default() };
        let cache = tempfile::tempdir().expect("a directory");
        let blobs = cache.path().join("models--org--name/blobs");
        fs::create_dir_all(&blobs).expect("a directory");
        fs::write(blobs.join(format!("{}.incomplete", hash(&weights(0)))), &left).expect("a part");
        let settings = server.settings(cache.path());
        let found = find(Path::new("org/name"), &settings, &Silent);
        assert!(fs::read(found.expect("a model").join("model.safetensors")).expect("weights") == weights(0));
        let whole = of(server.came());
        assert!(left.len() > 20_000 || whole == ["bytes=777-"], "{whole:?}");
    }
}

#[test]
fn a_transfer_that_brings_nothing_any_more_is_begun_again() {
    let server = Server::new(&files());
    let cache = tempfile::tempdir().expect("a directory");
    *locked(&server.mood) = Mood { breaks_after: Some(6000), stalls: true, ..Mood::default() };
    let began = Instant::now();
    let settings = Settings { stall: Duration::from_millis(300), ..server.settings(cache.path()) };
    let found = find(Path::new("org/name"), &settings, &Silent).expect("a model");
    assert!(fs::read(found.join("model.safetensors")).expect("weights") == weights(0));
    assert!(began.elapsed() < STALL, "{:?}", began.elapsed());
}

#[test]
fn a_server_that_sends_the_beginning_again_and_again_is_given_up() {
    for mood in [
        Mood { breaks_after: Some(6000), begins_anew: true, ..Mood::default() },
        Mood { breaks_after: Some(6000), no_ranges: true, ..Mood::default() },
    ] {
        let server = Server::new(&files());
        let cache = tempfile::tempdir().expect("a directory");
        *locked(&server.mood) = mood;
        let error = refused("org/name", &server.settings(cache.path()));
        assert!(error.contains("model.safetensors") && error.contains("bytes came of 20000"), "{error}");
        assert!(server.came().len() < 40);
    }
}

#[test]
fn no_more_is_kept_of_a_file_than_the_hub_says_that_it_has() {
    let server = Server::new(&files());
    let cache = tempfile::tempdir().expect("a directory");
    locked(&server.mood).more = 16 << 20;
    let error = refused("org/name", &server.settings(cache.path()));
    assert!(error.contains("more came than the 20000 bytes"), "{error}");
    let part = cache.path().join("models--org--name/blobs").join(format!("{}.incomplete", hash(&weights(0))));
    let kept = fs::metadata(part).expect("a part").len();
    assert!(kept < 4 << 20, "{kept}");
    locked(&server.mood).more = 0;
    let found = find(Path::new("org/name"), &server.settings(cache.path()), &Silent).expect("a model");
    assert!(fs::read(found.join("model.safetensors")).expect("weights") == weights(0));
}

#[test]
fn a_redirect_may_leave_out_the_scheme() {
    let server = Server::new(&files());
    let cache = tempfile::tempdir().expect("a directory");
    let target = format!("location: //localhost:{}/cdn/model.safetensors\r\n", server.port);
    locked(&server.mood).answers = vec![("/model.safetensors", 302, target.leak())];
    find(Path::new("org/name"), &server.settings(cache.path()), &Silent).expect("a model");
    let came = server.came();
    let elsewhere: Vec<_> = came.iter().filter(|came| came.path.starts_with("/cdn/")).collect();
    assert!(elsewhere.len() == 1 && elsewhere[0].token.is_none(), "{elsewhere:?}");
}

#[test]
fn what_will_never_work_is_not_tried_again() {
    let server = Server::new(&files());
    let cache = tempfile::tempdir().expect("a directory");
    locked(&server.mood).answers = vec![("/api/", 302, ""); 2];
    refused("org/name", &server.settings(cache.path()));
    assert_eq!(server.came().len(), 1);
    let nowhere = Settings { endpoint: "no address".into(), patience: STALL, ..server.settings(cache.path()) };
    assert!(refused("org/name", &nowhere).contains("is no address"));
}

#[test]
fn a_busy_server_is_asked_again() {
    let server = Server::new(&files());
    let cache = tempfile::tempdir().expect("a directory");
    locked(&server.mood).answers = vec![
        ("/api/", 429, "retry-after: 0\r\n"),
        ("/api/", 503, ""),
        ("config.json", 500, ""),
        ("/cdn/", 502, ""),
        ("/cdn/", 408, ""),
    ];
    find(Path::new("org/name"), &server.settings(cache.path()), &Silent).expect("a model");
    assert!(locked(&server.mood).answers.is_empty());
    locked(&server.mood).answers = vec![("/api/", 503, ""); 5];
    let other = tempfile::tempdir().expect("a directory");
    let error = refused("org/name", &server.settings(other.path()));
    assert!(error.contains("cannot be reached") && error.contains("503"), "{error}");
    // Unless an earlier copy is there.
    locked(&server.mood).answers = vec![("/api/", 503, ""); 5];
    find(Path::new("org/name"), &server.settings(cache.path()), &Silent).expect("the copy");
}

#[test]
fn wrong_bytes_do_not_stay() {
    let server = Server::new(&files());
    let cache = tempfile::tempdir().expect("a directory");
    let settings = server.settings(cache.path());
    locked(&server.mood).lies = true;
    let error = refused("org/name", &settings);
    assert!(error.contains("model.safetensors") && error.contains("another sha256"), "{error}");
    locked(&server.mood).lies = false;
    let found = find(Path::new("org/name"), &settings, &Silent).expect("a model");
    assert!(fs::read(found.join("model.safetensors")).expect("weights") == weights(0));
}

/// Stops the work after some bytes.
struct Stop(Mutex<u64>);

impl Progress for Stop {
    fn begin(&self, _: &'static str, _: u64) {}

    fn advance(&self, steps: u64) -> Result<(), Error> {
        let mut seen = locked(&self.0);
        *seen += steps;
        if *seen > 5000 { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn note(&self, _: &str) {}
}

#[test]
fn ctrl_c_keeps_what_came() {
    let server = Server::new(&files());
    let cache = tempfile::tempdir().expect("a directory");
    let settings = server.settings(cache.path());
    let stopped = find(Path::new("org/name"), &settings, &Stop(Mutex::new(0)));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    let mut part = Vec::new();
    let path = cache.path().join("models--org--name/blobs").join(format!("{}.incomplete", hash(&weights(0))));
    fs::File::open(path).and_then(|mut file| file.read_to_end(&mut part)).expect("a part");
    assert!(!part.is_empty() && weights(0).starts_with(&part), "{} bytes", part.len());
    find(Path::new("org/name"), &settings, &Silent).expect("a model");
}
