//! An allocator that counts what each thread has in memory, so that tests beside each other do not disturb each other.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    /// Bytes that this thread has taken since the last [`begin`]; what it frees may be older, or another thread's, so
    /// it can fall below zero.
    static NOW: Cell<isize> = const { Cell::new(0) };
    /// The most that it had since the last [`begin`].
    static MOST: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn add(bytes: isize) {
    // A thread that ends may have lost its counters already.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(now.get())));
    });
}

#[expect(unsafe_code, reason = "an allocator is unsafe to write")]
// SAFETY: all is left to the system's allocator; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // While it moves, there may be both.
        add(size as isize);
        add(-(layout.size() as isize));
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Begins to measure.
pub fn begin() {
    NOW.set(0);
    MOST.set(0);
}

/// The most bytes that this thread has had at a time since, beyond what it had then.
pub fn most() -> usize {
    MOST.get().max(0) as usize
}

#[test]
fn what_is_allocated_is_counted() {
    // What is freed later was there before.
    let older: Vec<u8> = std::hint::black_box(vec![0; 8 << 20]);
    begin();
    let bytes: Vec<u8> = std::hint::black_box(vec![0; 3 << 20]);
    drop(bytes);
    drop(older);
    assert!((3 << 20..4 << 20).contains(&most()));
    begin();
    assert_eq!(most(), 0, "it begins anew");
}
