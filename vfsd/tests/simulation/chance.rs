//! Where a simulated world gets its chance and its time from: the two system calls under every library.
//!
//! `getrandom(2)` seeds the random numbers of std's maps, of tokio and of openraft; `clock_gettime(2)` is under every
//! clock. Defined here, they take the place of libc's in this test program: on a thread that has begun a world they
//! answer from its seed and from tokio's paused clock, on any other thread as the kernel does. So the product is
//! simulated as it is built, and nothing of it can forget to ask the simulation.
//!
//! Invariant: one world a process. tokio counts runtimes across the process into its seeds.

use std::cell::Cell;

use libc::{c_int, c_long, c_uint, c_void, clockid_t, timespec};

/// What the monotonic clocks show when a world begins, in seconds.
const MONOTONIC_START: i64 = 1_000;
/// What the time of day is then.
const REALTIME_START: i64 = 1_800_000_000;

thread_local! {
    /// State of the generator; 0 on threads that are in no world.
    static RANDOM: Cell<u64> = const { Cell::new(0) };
    static STARTED: Cell<Option<tokio::time::Instant>> = const { Cell::new(None) };
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static ELAPSED: Cell<std::time::Duration> = const { Cell::new(std::time::Duration::ZERO) };
}

/// Begins a world on this thread, before anything else is done on it.
pub fn begin(seed: u64) {
    // Any number but 0, which says that there is no world.
    RANDOM.set(seed.wrapping_mul(2) | 1);
}

/// From now on the clocks run with tokio's.
pub fn start_clock() {
    STARTED.set(Some(tokio::time::Instant::now()));
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next() -> u64 {
    let state = RANDOM.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    RANDOM.set(if state == 0 { 1 } else { state });
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Takes the place of libc's.
///
/// # Safety
/// As getrandom(2): `buffer` has room for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, len: usize, flags: c_uint) -> isize {
    if RANDOM.get() == 0 {
        // SAFETY: the arguments are the caller's, and the call is the one that was asked for.
        let got: c_long = unsafe { libc::syscall(libc::SYS_getrandom, buffer, len, flags) };
        return got as isize;
    }
    // SAFETY: the caller gives a buffer of `len` bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len) };
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&next().to_le_bytes()[..part.len()]);
    }
    isize::try_from(len).unwrap()
}

/// Takes the place of libc's.
///
/// # Safety
/// As clock_gettime(2): `time` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    if RANDOM.get() == 0 {
        // SAFETY: the arguments are the caller's, and the call is the one that was asked for.
        let got: c_long = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
        return c_int::try_from(got).unwrap_or(-1);
    }
    let start = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => REALTIME_START,
        _ => MONOTONIC_START,
    };
    // tokio may ask the clock itself while it is asked.
    if !INSIDE.replace(true) {
        if let Some(started) = STARTED.get()
            && tokio::runtime::Handle::try_current().is_ok()
        {
            ELAPSED.set(started.elapsed());
        }
        INSIDE.set(false);
    }
    let elapsed = ELAPSED.get();
    let shown = timespec {
        tv_sec: start + i64::try_from(elapsed.as_secs()).unwrap(),
        tv_nsec: i64::from(elapsed.subsec_nanos()),
    };
    // SAFETY: the caller gives a place for the time.
    unsafe { time.write(shown) };
    0
}
