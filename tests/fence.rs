//! Is a panic inside of a fence silent, and one outside still told? Alone in its process, because the panic hook is the
//! process's.

use std::{
    panic::set_hook,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use slicegpt_gpu::{cli::hush_caught_panics, data::fenced};

#[test]
fn only_panics_inside_of_the_fence_are_silent() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    set_hook(Box::new(|_| {
        TOLD.fetch_add(1, Ordering::SeqCst);
    }));
    hush_caught_panics();
    let elsewhere = || assert!(thread::spawn(|| panic!("elsewhere")).join().is_err());
    let inside = fenced(|| -> tokenizers::Result<()> {
        elsewhere();
        assert!(fenced(|| -> tokenizers::Result<()> { panic!("deeper") }).is_err());
        panic!("inside")
    });
    assert!(inside.expect_err("a panic").contains("inside"));
    assert_eq!(TOLD.load(Ordering::SeqCst), 1, "that of the other thread, while this one was inside");
    elsewhere();
    assert_eq!(TOLD.load(Ordering::SeqCst), 2, "and after");
}
