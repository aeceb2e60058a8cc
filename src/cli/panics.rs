//! What the program does about panics.

use std::panic::{set_hook, take_hook};

use crate::data::is_fenced;

/// Keeps quiet about panics that the library catches and reports as errors. The panic hook is the process's: this is
/// for programs, once.
pub fn hush_caught_panics() {
    let hook = take_hook();
    set_hook(Box::new(move |panic| {
        if !is_fenced() {
            hook(panic);
        }
    }));
}
