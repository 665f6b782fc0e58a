//! A call that waits for a commit: begun on the thread that asks, ended on the one that has the answer.
//!
//! Handing a call to another thread and back costs more than most of its steps. So its first steps run where it was
//! asked for; then it is parked, without a task. Whoever completes the commit inside [`promptly`] runs the rest of it
//! right there; any other wake-up hands it to the runtime.
//!
//! Invariants: steps of an operation never run at once; an operation that is woken inside another one's steps goes to
//! the runtime, so steps never nest. What follows a commit must not block: it runs in `apply`.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use tokio::runtime::Handle;

type Steps = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    static PROMPT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `wake`; operations that it wakes go on within it.
pub fn promptly<T>(wake: impl FnOnce() -> T) -> T {
    let before = PROMPT.replace(true);
    let result = wake();
    PROMPT.set(before);
    result
}

/// Begins an operation on this thread.
pub fn begin(runtime: &Handle, steps: impl Future<Output = ()> + Send + 'static) {
    let parked = Arc::new(Parked {
        runtime: runtime.clone(),
        state: Mutex::default(),
    });
    parked.go_on(Box::pin(steps));
}

/// An operation, and whoever may wake it.
struct Parked {
    runtime: Handle,
    // Leaf lock: nothing is called while it is held.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What is left; nothing while its steps run, or after they were handed to the runtime.
    rest: Option<Steps>,
    /// It was woken while its steps ran.
    woken: bool,
}

impl Parked {
    fn go_on(self: &Arc<Self>, mut steps: Steps) {
        let waker = Waker::from(Arc::clone(self));
        let _runtime = self.runtime.enter();
        let poll = || steps.as_mut().poll(&mut Context::from_waker(&waker));
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(Poll::Pending) => self.park(steps),
            Ok(Poll::Ready(())) => {}
            // The hook has told of it. Its caller gets an error when the reply is dropped.
            Err(_) => tracing::error!("a call was given up: it panicked"),
        }
    }

    fn park(&self, steps: Steps) {
        let mut state = self.state.lock();
        if !state.woken {
            state.rest = Some(steps);
            return;
        }
        drop(state);
        self.runtime.spawn(steps);
    }
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        let mut state = self.state.lock();
        let Some(rest) = state.rest.take() else {
            state.woken = true;
            return;
        };
        drop(state);
        if PROMPT.replace(false) {
            self.go_on(rest);
            PROMPT.set(true);
        } else {
            self.runtime.spawn(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::ThreadId;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    }

    /// An operation that waits for a value and tells the thread that it ended on.
    fn waiting(runtime: &Handle) -> (oneshot::Sender<u32>, mpsc::Receiver<(u32, ThreadId)>) {
        let (sender, receiver) = oneshot::channel();
        let (ended, end) = mpsc::channel();
        begin(runtime, async move {
            let value = receiver.await.unwrap();
            ended.send((value, std::thread::current().id())).unwrap();
        });
        (sender, end)
    }

    #[test]
    fn it_ends_on_the_thread_that_completes_it_promptly_and_else_on_the_runtime() {
        let runtime = runtime();
        let here = std::thread::current().id();
        let (sender, end) = waiting(runtime.handle());
        promptly(|| sender.send(1)).unwrap();
        assert_eq!(end.try_recv(), Ok((1, here)));
        let (sender, end) = waiting(runtime.handle());
        sender.send(2).unwrap();
        let (value, thread) = end.recv_timeout(LONG).unwrap();
        assert!(value == 2 && thread != here);
    }

    #[test]
    fn what_an_operation_wakes_goes_to_the_runtime() {
        let runtime = runtime();
        let here = std::thread::current().id();
        let (inner, inner_end) = waiting(runtime.handle());
        let (outer, receiver) = oneshot::channel::<()>();
        begin(runtime.handle(), async move {
            receiver.await.unwrap();
            inner.send(3).unwrap();
        });
        promptly(|| outer.send(())).unwrap();
        let (value, thread) = inner_end.recv_timeout(LONG).unwrap();
        assert!(value == 3 && thread != here);
    }

    #[test]
    fn one_that_panics_harms_nobody_else() {
        let runtime = runtime();
        let (sender, receiver) = oneshot::channel::<()>();
        begin(runtime.handle(), async move {
            receiver.await.unwrap();
            panic!("on purpose");
        });
        promptly(|| sender.send(())).unwrap();
    }

    #[test]
    fn no_wake_up_is_lost_however_the_threads_meet() {
        let runtime = runtime();
        for round in 0..2000 {
            let (sender, receiver) = oneshot::channel();
            let (ended, end) = mpsc::channel();
            let completer = std::thread::spawn(move || promptly(|| sender.send(round)));
            begin(runtime.handle(), async move {
                ended.send(receiver.await.unwrap()).unwrap();
            });
            assert_eq!(end.recv_timeout(LONG), Ok(round));
            completer.join().unwrap().unwrap();
        }
    }
}
