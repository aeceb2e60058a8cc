//! What can go wrong anywhere on the device, and the locks that a panic elsewhere does not close.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Error;

pub(super) fn out_of_memory(what: &str) -> Error {
    Error::OutOfMemory(format!(
        "the GPU has too little memory for {what}; give --max-gpu-memory what it has to spare, shorten the sequences, \
         or choose another --device"
    ))
}

/// Locks, also after a panic of another holder: no holder leaves its data half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
