//! How much memory a function takes at most, by counting what this thread allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static TAKEN: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is handed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let taken = TAKEN.get().wrapping_add(layout.size());
        TAKEN.set(taken);
        // What was freed here and allocated elsewhere makes the count negative, which is no peak.
        if isize::try_from(taken).is_ok() {
            PEAK.set(PEAK.get().max(taken));
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        TAKEN.set(TAKEN.get().wrapping_sub(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `work` had at once.
pub fn peak_of(work: impl FnOnce()) -> usize {
    TAKEN.set(0);
    PEAK.set(0);
    work();
    PEAK.get()
}
