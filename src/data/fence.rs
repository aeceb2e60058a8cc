//! A fence around other people's code that may panic on user data: a panic becomes a reason.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    /// Whether this thread is inside of a fence.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread will be caught and returned as a reason. A program's panic hook, which is its own
/// affair and not the library's, may then keep quiet.
pub fn is_fenced() -> bool {
    INSIDE.get()
}

/// Does something; where it panics, returns what the panic said.
///
/// # Errors
/// The panic's message.
pub fn fence<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let outer = INSIDE.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(outer);
    result.map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it gives up without a reason").to_owned()
}
